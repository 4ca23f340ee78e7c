// Fetches the page that is shown anew when the ledger has a new head, and puts its content in place: what is live is written by the node alone.
// Nothing changes while somebody selects text, types or has typed, moves by keyboard, holds a button down, or looks at another tab; a button stops it.
"use strict";

const main = document.getElementById("main");

if (main?.dataset.live) {
  let busy = false;
  let news = null;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "live";
  button.textContent = "Live";
  button.setAttribute("aria-pressed", "true");
  const show = async () => {
    const held = main.querySelector(":focus-visible, :active, input:focus, textarea:focus, select:focus");
    const typed = [...main.querySelectorAll("input:not([type]), textarea")].some((each) => each.value !== each.defaultValue);
    if (busy || document.hidden || typed || (held && held !== button) || String(getSelection())) return;
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("main");
      if (answer.ok && fresh) {
        const open = [...main.querySelectorAll("details")].map((each) => each.open);
        const across = [...main.querySelectorAll(".wide")].map((each) => each.scrollLeft);
        const focused = document.activeElement === button;
        main.replaceChildren(button, ...fresh.childNodes);
        if (focused) button.focus();
        main.querySelectorAll("details").forEach((each, i) => (each.open = open[i] ?? each.open));
        main.querySelectorAll(".wide").forEach((each, i) => (each.scrollLeft = across[i] ?? 0));
        document.querySelector("footer").replaceChildren(...page.querySelector("footer").childNodes);
      }
    } catch {
      // The node is away: the next news bring the page back.
    } finally {
      busy = false;
    }
  };
  // A browser keeps few connections to one place: a page that nobody looks at holds none.
  const listen = () => {
    const wanted = !document.hidden && button.getAttribute("aria-pressed") === "true";
    if (wanted && !news) {
      news = new EventSource("/live");
      news.addEventListener("head", show);
    } else if (!wanted && news) {
      news.close();
      news = null;
    }
  };
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    listen();
  });
  main.prepend(button);
  document.addEventListener("visibilitychange", () => (listen(), show()));
  addEventListener("pagehide", () => news?.close());
  listen();
}

// A slider says what it is at.
addEventListener("input", ({ target }) => {
  const shown = document.getElementById(target.dataset?.shown);
  if (shown) shown.value = `${target.value} %`;
});
