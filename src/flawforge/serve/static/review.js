// The review queue: answers by keyboard, and boxes or brush strokes that say where a defect is.

import { say, texts } from "./viewer.js";

const form = document.getElementById("review");
const SVG = "http://www.w3.org/2000/svg";

if (form) {
  const [width, height] = [Number(form.dataset.width), Number(form.dataset.height)];
  const layer = document.getElementById("drawing");
  const stage = layer?.ownerSVGElement;
  const SEEN_FOR = 700; // ms for which a picture must be there before a key answers: who presses fast sees nothing
  setTimeout(() => form.classList.add("ready"), SEEN_FOR);
  const [saved, drawn, note] = ["saved", "drawn", "note"].map((id) => document.getElementById(id));
  const BRUSH = Math.max(3, Math.round(Math.max(width, height) / 40)); // pixels of the picture
  let marks = []; // boxes {x, y, w, h} and strokes {points}, in the picture's own pixels, each with its element

  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const boxes = () => marks.filter((mark) => mark.points === undefined && !mark.image);
  const strokes = () => marks.filter((mark) => mark.points !== undefined);
  const kept = () => marks.filter((mark) => mark.image); // strokes of the last review

  function tell() {
    const words = marks.length ? say(texts.drawn, { boxes: boxes().length, strokes: strokes().length }) : "";
    drawn.textContent = kept().length ? `${words}, ${texts.kept}` : words;
    boxes().forEach((box, index) => {
      const { x, y, w, h } = box;
      box.element.setAttribute("aria-label", say(texts.box, { number: index + 1, x, y, w, h }));
    });
  }

  function draw(mark) {
    const element = mark.element;
    if (mark.image) return;
    if (mark.points) {
      element.setAttribute("points", mark.points.map(([x, y]) => `${x},${y}`).join(" "));
    } else {
      for (const [name, value] of [["x", mark.x], ["y", mark.y], ["width", mark.w], ["height", mark.h]]) {
        element.setAttribute(name, value);
      }
    }
  }

  function add(mark) {
    mark.element = document.createElementNS(SVG, mark.points ? "polyline" : "rect");
    if (mark.points) {
      mark.element.setAttribute("stroke-width", BRUSH);
    } else {
      mark.element.setAttribute("tabindex", "0");
      mark.element.setAttribute("role", "img");
      mark.element.addEventListener("keydown", (event) => nudge(event, mark));
    }
    layer.append(mark.element);
    marks.push(mark);
    draw(mark);
    tell();
    return mark;
  }

  /** The strokes of the last review, as a picture that stays until it is undone. */
  function keep(data) {
    const image = new Image(width, height);
    image.src = `data:image/png;base64,${data}`;
    const element = document.createElementNS(SVG, "image");
    for (const [name, value] of [["href", image.src], ["width", width], ["height", height], ["class", "strokes"]]) {
      element.setAttribute(name, value);
    }
    layer.append(element);
    marks.push({ image, element });
    tell();
  }

  function remove(mark) {
    mark.element.remove();
    marks = marks.filter((each) => each !== mark);
    tell();
  }

  /** Moves a box with the arrow keys, resizes it with Shift, removes it with Delete. */
  function nudge(event, box) {
    const step = Math.max(1, Math.round(Math.max(width, height) / 100));
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      remove(box);
      document.getElementById("add").focus();
    }
    if (!way) return;
    event.preventDefault();
    if (event.shiftKey) {
      box.w = clamp(box.w + way[0] * step, 1, width - box.x);
      box.h = clamp(box.h + way[1] * step, 1, height - box.y);
    } else {
      box.x = clamp(box.x + way[0] * step, 0, width - box.w);
      box.y = clamp(box.y + way[1] * step, 0, height - box.h);
    }
    draw(box);
    tell();
  }

  /** A pointer's place in the picture's own pixels. */
  function place(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(stage.getScreenCTM().inverse());
    return [clamp(Math.round(point.x), 0, width), clamp(Math.round(point.y), 0, height)];
  }

  if (stage) {
    let begun = null;
    let current = null;
    stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !form.elements.tool.value) return;
      stage.setPointerCapture(event.pointerId);
      begun = place(event);
      current = form.elements.tool.value === "brush" ? add({ points: [begun, begun] }) : null;
    });
    stage.addEventListener("pointermove", (event) => {
      if (!begun) return;
      const [x, y] = place(event);
      if (current?.points) {
        current.points.push([x, y]);
      } else {
        const box = { x: Math.min(x, begun[0]), y: Math.min(y, begun[1]), w: Math.abs(x - begun[0]), h: Math.abs(y - begun[1]) };
        if (!box.w || !box.h) return;
        current = Object.assign(current ?? add(box), box);
      }
      draw(current);
      tell();
    });
    for (const name of ["pointerup", "pointercancel"]) {
      stage.addEventListener(name, () => { begun = current = null; });
    }
    document.getElementById("undo").addEventListener("click", () => { if (marks.length) remove(marks.at(-1)); });
    document.getElementById("add").addEventListener("click", () => {
      const [w, h] = [Math.max(1, Math.round(width / 5)), Math.max(1, Math.round(height / 5))];
      add({ x: Math.round((width - w) / 2), y: Math.round((height - h) / 2), w, h }).element.focus();
    });
    document.getElementById("regions")?.addEventListener("click", () => {
      for (const region of JSON.parse(form.dataset.regions)) {
        if (!boxes().some((box) => ["x", "y", "w", "h"].every((name) => box[name] === region[name]))) add({ ...region });
      }
    });
  }

  if (stage) {
    for (const box of JSON.parse(form.dataset.drawn)) add(box);
    if (form.dataset.strokes) keep(form.dataset.strokes);
    const tools = form.querySelectorAll("[name=tool]");
    const touch = matchMedia("(pointer: coarse)").matches; // a finger scrolls until a tool is chosen
    if (touch) tools.forEach((tool) => { tool.checked = false; });
    const armed = () => stage.classList.toggle("drawing", Boolean(form.elements.tool.value));
    tools.forEach((tool) => tool.addEventListener("change", armed));
    armed();
  }

  /** The strokes as a PNG of the picture's own size in base64, white on black; null without any. */
  function mask() {
    if (!strokes().length && !kept().length) return null;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width, height];
    const pen = canvas.getContext("2d");
    pen.fillStyle = "black";
    pen.fillRect(0, 0, width, height);
    for (const { image } of kept()) pen.drawImage(image, 0, 0, width, height);
    [pen.strokeStyle, pen.lineWidth, pen.lineCap, pen.lineJoin] = ["white", BRUSH, "round", "round"];
    for (const { points } of strokes()) {
      pen.beginPath();
      points.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.stroke();
    }
    return canvas.toDataURL("image/png").split(",")[1];
  }

  let busy = false;
  let overtaken = null; // what the service said of a review that came in the meantime
  async function answer(verdict) {
    if (busy) return;
    if (verdict === "good" && marks.length) {
      saved.textContent = texts.good_with_place;
      return;
    }
    busy = true;
    saved.textContent = texts.saving;
    try {
      const id = Number(form.dataset.id);
      const places = boxes().map(({ x, y, w, h }) => ({ x, y, w, h }));
      const seen = overtaken === null ? Number(form.dataset.seen) : null;
      const body = JSON.stringify({ result: id, verdict, boxes: places, mask: mask(), note: note.value.trim(), seen });
      const said = await fetch("/v1/reviews", { method: "POST", body, headers: { "Content-Type": "application/json" } });
      if (said.status === 401) {
        location.assign("/login?next=/review");
        return;
      }
      if (said.status === 409) {
        overtaken = (await said.json()).error;
        busy = false;
        saved.textContent = say(texts.again, { why: overtaken });
        return;
      }
      if (!said.ok) throw new Error((await said.json()).error);
      location.assign(`/review?after=${id}&said=${id}`);
    } catch (error) {
      busy = false;
      saved.textContent = say(texts.not_saved, { why: error instanceof TypeError ? texts.network : error.message });
    }
  }

  for (const button of form.querySelectorAll("[data-answer]")) {
    button.addEventListener("click", () => answer(button.dataset.answer));
  }
  form.addEventListener("submit", (event) => event.preventDefault());

  // A letter acts like the button that shows it, but not while somebody types.
  document.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input:not([type=radio]):not([type=range]), textarea, select");
    if (typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const target = form.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]`);
    if (!target) return;
    event.preventDefault();
    if (target.dataset.answer && !form.classList.contains("ready")) return;
    if (target.id === "undo" && !marks.length) {
      document.getElementById("change")?.click(); // there is nothing to undo but the last review
      return;
    }
    if (target.matches("label")) target.querySelector("input").focus({ preventScroll: true });
    target.click();
  });
}
