// The live page: sends dropped pictures one after the other, and follows the line by server-sent events.

import { blendAll, say, texts } from "./viewer.js";

const KEPT = 12; // rows of the list
const TRIES = 8; // of one picture while the service is busy
const [form, files, progress, errors, missed, rows, result, follow, state, announce, lost, banner, back] = [
  "drop", "files", "progress", "errors", "missed", "rows", "result", "follow", "state", "announce", "lost", "held", "back",
].map((id) => document.getElementById(id));
let queue = Promise.resolve();
let waiting = 0;
let sent = 0;
let judged = {}; // how many of each verdict
let refused = 0;
let held = false; // whether the part that is shown stays, whatever the line brings
const own = new Set(); // ids of the results of pictures that were dropped here
const later = new Map(); // id -> verdict of what the line brought in the meantime
let newest = rows.dataset.last;
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

/** Keeps the part that is shown until somebody goes back to the line, and says so. */
function hold() {
  held = true;
  const ng = [...later.values()].filter((verdict) => verdict === "NG").length;
  banner.querySelector("span").textContent = say(texts.held, { count: later.size, ng });
  banner.hidden = later.size === 0 || follow.value === "none";
}

function release() {
  held = false;
  later.clear();
  banner.hidden = true;
}

/** In place of a result: a picture that was not judged. */
function showNotJudged(name, why) {
  shown++;
  result.replaceChildren(document.getElementById("not-judged").content.cloneNode(true));
  result.querySelector("h2").textContent = name;
  result.querySelector("header div p").textContent = why;
  mark(null);
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
    if (id !== null && row.dataset.id === String(id)) link.setAttribute("aria-current", "true");
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
  refused++;
  showNotJudged(name, why);
}

/** Sends one picture until it is judged or refused; the same key makes a second try harmless. */
async function judge(file, facts) {
  const body = new FormData();
  body.append("files", file, file.name);
  for (const [name, value] of facts) body.append(name, value);
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

function summary() {
  const count = Object.values(judged).reduce((sum, each) => sum + each, 0);
  const verdicts = Object.entries(judged).map(([verdict, each]) => `${each} ${verdict}`).join(", ");
  const words = [count ? say(texts.done, { count, verdicts }) : "", refused ? say(texts.not_judged, { count: refused }) : ""];
  return words.filter(Boolean).join(", ");
}

function take(list) {
  if (waiting === 0) {
    sent = refused = 0;
    judged = {};
    errors.replaceChildren();
  }
  const facts = ["model", "part_id", "station"]
    .map((name) => [name, form.elements[name]?.value.trim()])
    .filter(([, value]) => value);
  form.elements.part_id.value = ""; // the next pictures are of another part
  hold();
  for (const file of list) {
    waiting++;
    sent++;
    queue = queue.then(async () => {
      progress.textContent = say(texts.judging, { name: file.name, done: sent - waiting + 1, count: sent });
      try {
        const entry = await judge(file, facts);
        own.add(String(entry.id));
        later.delete(String(entry.id));
        hold();
        judged[entry.verdict] = (judged[entry.verdict] ?? 0) + 1;
        await show(entry.id);
        announce.textContent = say(texts.result, { verdict: entry.verdict, name: entry.part_id || entry.picture });
      } catch (error) {
        fail(file.name, error.message);
      } finally {
        waiting--;
        if (waiting === 0) progress.textContent = summary();
      }
    });
  }
}

files.addEventListener("change", () => {
  take([...files.files]);
  files.value = "";
});
form.addEventListener("submit", (event) => event.preventDefault());

window.addEventListener("beforeunload", (event) => {
  if (waiting > 0) event.preventDefault(); // the browser asks: the rest would not be judged
});

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
  hold();
  show(row.dataset.id).catch(() => showNotJudged(row.querySelector(".name").textContent, texts.network));
});

follow.addEventListener("change", () => {
  if (follow.value === "none") hold();
  else back.click();
});
back.addEventListener("click", () => {
  release();
  if (newest && newest !== "0") show(newest).catch(() => {});
});
result.addEventListener("focusin", hold); // what somebody reads or moves by keyboard must not change under their hands
result.addEventListener("pointerdown", hold);

// The line. A browser connects again on its own, and says which result it saw last.
const events = new EventSource(`/events?last=${rows.dataset.last}`);
events.addEventListener("open", () => {
  state.textContent = texts.live;
  state.className = "state on";
  lost.hidden = true;
  result.classList.remove("stale");
});
events.addEventListener("error", () => {
  state.textContent = texts.lost;
  state.className = "state off";
  if (lost.hidden) lost.textContent = say(texts.lost_since, { time: new Date().toLocaleTimeString() });
  lost.hidden = false;
  result.classList.add("stale");
});
events.addEventListener("message", (event) => {
  const news = JSON.parse(event.data);
  if (!addRow(news.id, news.row)) return;
  newest = String(news.id);
  if (held) {
    if (!own.has(newest)) later.set(newest, news.verdict);
    hold();
    return;
  }
  const wanted = follow.value === "all" || (follow.value === "rejects" && news.verdict !== "OK");
  if (wanted) {
    show(news.id).catch(() => {});
    announce.textContent = say(texts.result, { verdict: news.verdict, name: news.name });
  }
});
// Pictures of the watched folder that could not be judged; the whole list, so that none is lost while the line is down.
events.addEventListener("missed", (event) => {
  const { html, now } = JSON.parse(event.data);
  if (missed.innerHTML.trim() !== html.trim()) missed.innerHTML = html;
  if (now && !held && follow.value !== "none") showNotJudged(now.name, now.why);
});
const first = result.querySelector("[data-id]");
if (first) mark(first.dataset.id);
