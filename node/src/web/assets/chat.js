// A conversation over the node's own API. What is said stays in this page.
"use strict";

const $ = (id) => document.getElementById(id);
const [talk, ask, said, model, key, speed] = ["talk", "ask", "said", "model", "key", "speed"].map($);
let messages = [];
let stop = null;

const headers = () => ({
  "content-type": "application/json",
  ...(key.value ? { authorization: `Bearer ${key.value}` } : {}),
});

const say = (role, text) => {
  const one = document.createElement("div");
  one.className = `said ${role}`;
  const who = document.createElement("b");
  who.textContent = { user: "You", assistant: "The model", error: "It did not work" }[role];
  const what = document.createElement("p");
  what.textContent = text;
  one.append(who, what);
  talk.append(one);
  one.scrollIntoView({ block: "end" });
  return what;
};

const models = async () => {
  try {
    const answer = await fetch("/v1/models", { headers: headers() });
    const { data, error } = await answer.json();
    if (error) throw new Error(error.message);
    // Of others' models it answers nothing.
    const own = data.filter(({ here }) => here);
    model.replaceChildren(...own.map(({ id }) => new Option(id, id)));
    speed.textContent = own.length ? "" : "This node has no model yet.";
  } catch (e) {
    speed.textContent = `The models can't be listed: ${e.message}`;
  }
};

// The events of a stream, as they come.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      held += value;
      const lines = held.split(/\r?\n/);
      held = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Who computed an answer: each stage with its layers.
const answered = (stages) => {
  const note = document.createElement("small");
  note.append("Answered by ");
  stages.forEach(({ node, layers }, i) => {
    const link = document.createElement("a");
    link.href = `/node/${node}`;
    link.textContent = node.slice(0, 8);
    note.append(i ? ", " : "", link, ` (layers ${layers})`);
  });
  return note;
};

const answer = async () => {
  // A conversation that is begun anew meanwhile is another one.
  const mine = messages;
  const question = talk.lastElementChild;
  const shown = say("assistant", "");
  talk.setAttribute("aria-busy", "true");
  const started = performance.now();
  let first = null;
  let usage = null;
  let stages = [];
  stop = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: headers(),
      signal: stop.signal,
      body: JSON.stringify({
        model: model.value || undefined,
        messages,
        temperature: Number($("temperature").value),
        max_tokens: Number($("tokens").value) || undefined,
        stream: true,
        stream_options: { include_usage: true },
      }),
    });
    if (!response.ok) throw new Error((await response.json().catch(() => ({}))).error?.message ?? response.statusText);
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      usage = event.usage ?? usage;
      stages = event.stages ?? stages;
      const piece = event.choices?.[0]?.delta?.content;
      if (piece) {
        first ??= performance.now();
        const follows = innerHeight + scrollY >= document.body.scrollHeight - 120;
        shown.append(piece);
        if (follows) shown.parentElement.scrollIntoView({ block: "end" });
      }
    }
  } catch (e) {
    if (e.name !== "AbortError") say("error", e.message);
  } finally {
    stop = null;
    $("send").hidden = false;
    $("stop").hidden = true;
    talk.setAttribute("aria-busy", "false");
    said.focus();
  }
  if (mine !== messages) return;
  if (stages.length) shown.after(answered(stages));
  if (shown.textContent) mine.push({ role: "assistant", content: shown.textContent });
  else {
    // What was not answered is not part of the conversation, but may be asked again.
    said.value ||= mine.pop().content;
    question.remove();
    shown.parentElement.remove();
  }
  if (first !== null) {
    const after = (performance.now() - first) / 1000;
    const tokens = usage?.completion_tokens;
    const rate = tokens > 1 && after > 0 ? `, ${((tokens - 1) / after).toFixed(1)} tokens a second` : "";
    const paid = usage?.alc ? `, ${usage.alc} ALC paid` : "";
    speed.textContent = `First token after ${((first - started) / 1000).toFixed(2)} s${rate}${paid}`;
  }
};

ask.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = said.value.trim();
  if (!text || stop) return;
  messages.push({ role: "user", content: text });
  say("user", text);
  said.value = "";
  answer();
});
said.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    ask.requestSubmit();
  }
});
$("stop").addEventListener("click", () => stop?.abort());
$("anew").addEventListener("click", () => {
  stop?.abort();
  messages = [];
  talk.replaceChildren();
  speed.textContent = "";
  said.focus();
});
key.addEventListener("change", models);
ask.hidden = false;
models();
