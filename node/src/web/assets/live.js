// Fetches the page that is shown anew whenever the ledger has a new head, and puts its content in place: what is live is written by the
// node alone. Nothing changes while somebody selects text, types, or looks at another tab.
"use strict";

const main = document.getElementById("main");

if (main?.dataset.live) {
  let busy = false;
  const show = async () => {
    const typing = main.contains(document.activeElement) && document.activeElement.matches("input, textarea, select");
    if (busy || document.hidden || typing || String(getSelection())) return;
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("main");
      if (answer.ok && page) {
        const open = [...main.querySelectorAll("details")].map((each) => each.open);
        main.replaceChildren(...page.childNodes);
        main.querySelectorAll("details").forEach((each, i) => (each.open = open[i] ?? each.open));
      }
    } catch {
      // The node is away: the next news bring the page back.
    } finally {
      busy = false;
    }
  };
  new EventSource("/live").addEventListener("head", show);
  document.addEventListener("visibilitychange", show);
}
