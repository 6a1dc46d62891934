// The live page: sends dropped pictures one after the other, and follows the line by server-sent events.

import { blendAll, say, texts } from "./viewer.js";

const KEPT = 12; // rows of the list
const TRIES = 8; // of one picture while the service is busy
const [form, files, progress, errors, missed, rows, result, follow, state, announce] = [
  "drop", "files", "progress", "errors", "missed", "rows", "result", "follow", "state", "announce",
].map((id) => document.getElementById(id));
let queue = Promise.resolve();
let waiting = 0;
let sent = 0;
let judged = 0;
let shown = 0; // counts the results that were asked for, so that an answer that comes late does not replace a newer one

const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

/** A random idempotency key; crypto.randomUUID is missing where the page does not come over HTTPS. */
function newKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Fetch, and go to the login where the session is over. */
async function ask(address, options) {
  const answer = await fetch(address, options);
  if (answer.status === 401 || answer.redirected) {
    location.assign("/login");
    throw new Error(texts.network);
  }
  return answer;
}

/** Shows a result large. */
async function show(id) {
  const turn = ++shown;
  const answer = await ask(`/results/${id}/part`);
  if (!answer.ok || turn !== shown) return;
  const html = await answer.text();
  if (turn !== shown) return;
  const strength = result.querySelector("input.heat")?.value;
  const open = Array.from(result.querySelectorAll("details"), (each) => each.open);
  result.innerHTML = html;
  const slider = result.querySelector("input.heat");
  if (slider && strength !== undefined) slider.value = strength;
  result.querySelectorAll("details").forEach((each, index) => { each.open = open[index] ?? false; });
  blendAll(result);
  mark(id);
}

/** Marks the row of the result that is shown. */
function mark(id) {
  for (const row of rows.children) {
    const link = row.querySelector("a");
    if (row.dataset.id === String(id)) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}

function addRow(id, html) {
  if (rows.querySelector(`[data-id="${id}"]`)) return false;
  const holder = document.createElement("template");
  holder.innerHTML = html;
  rows.prepend(holder.content.querySelector("li"));
  while (rows.children.length > KEPT) rows.lastElementChild.remove();
  return true;
}

function fail(name, why) {
  const entry = document.createElement("li");
  entry.className = "note ng";
  entry.setAttribute("role", "alert");
  entry.textContent = say(texts.failed, { name, why });
  errors.prepend(entry);
}

/** Sends one picture until it is judged or refused; the same key makes a second try harmless. */
async function judge(file) {
  const body = new FormData();
  body.append("files", file, file.name);
  for (const name of ["model", "part_id", "station"]) {
    const value = form.elements[name]?.value.trim();
    if (value) body.append(name, value);
  }
  const key = newKey();
  for (let turn = 1; ; turn++) {
    let answer;
    try {
      answer = await ask("/v1/inspect", { method: "POST", body, headers: { "Idempotency-Key": key } });
    } catch {
      if (turn >= TRIES) throw new Error(texts.network);
      await pause(2);
      continue;
    }
    const said = await answer.json();
    if (answer.status === 503 && turn < TRIES) {
      const seconds = Number(answer.headers.get("Retry-After")) || 2;
      progress.textContent = say(texts.busy, { seconds });
      await pause(seconds);
      continue;
    }
    const entry = said.results?.[0];
    if (!entry?.id) throw new Error(entry?.error ?? said.error);
    return entry;
  }
}

function take(list) {
  if (waiting === 0) {
    sent = judged = 0;
    errors.replaceChildren();
  }
  for (const file of list) {
    waiting++;
    sent++;
    queue = queue.then(async () => {
      progress.textContent = say(texts.judging, { name: file.name, done: sent - waiting + 1, count: sent });
      try {
        const entry = await judge(file);
        judged++;
        await show(entry.id);
        announce.textContent = say(texts.result, { verdict: entry.verdict, name: entry.part_id || entry.picture });
      } catch (error) {
        fail(file.name, error.message);
      } finally {
        waiting--;
        if (waiting === 0) progress.textContent = say(texts.done, { count: judged });
      }
    });
  }
}

files.addEventListener("change", () => {
  take([...files.files]);
  files.value = "";
});
form.addEventListener("submit", (event) => event.preventDefault());

// A picture may be dropped anywhere on the page: one that misses the field must not replace the page.
let inside = 0;
const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragenter", (event) => {
  if (holdsFiles(event)) form.classList.toggle("over", ++inside > 0);
});
document.addEventListener("dragleave", (event) => {
  if (holdsFiles(event)) form.classList.toggle("over", --inside > 0);
});
document.addEventListener("dragover", (event) => {
  if (holdsFiles(event)) event.preventDefault();
});
document.addEventListener("drop", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  inside = 0;
  form.classList.remove("over");
  take([...event.dataTransfer.files]);
});

rows.addEventListener("click", (event) => {
  const row = event.target.closest("li");
  if (!row || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  follow.value = "none";
  show(row.dataset.id);
});

// The line. A browser connects again on its own, and says which result it saw last.
const events = new EventSource(`/events?last=${rows.dataset.last}`);
events.addEventListener("open", () => {
  state.textContent = texts.live;
  state.className = "state on";
});
events.addEventListener("error", () => {
  state.textContent = texts.lost;
  state.className = "state off";
});
events.addEventListener("message", (event) => {
  const news = JSON.parse(event.data);
  if (!addRow(news.id, news.row) || waiting > 0) return;
  const wanted = follow.value === "all" || (follow.value === "rejects" && news.verdict !== "OK");
  if (wanted) {
    show(news.id).catch(() => {});
    announce.textContent = say(texts.result, { verdict: news.verdict, name: news.name });
  }
});
// Pictures of the watched folder that could not be judged; the whole list, so that none is lost while the line is down.
events.addEventListener("missed", (event) => {
  const { html } = JSON.parse(event.data);
  if (missed.innerHTML.trim() !== html.trim()) missed.innerHTML = html;
});
const first = result.querySelector("[data-id]");
if (first) mark(first.dataset.id);
