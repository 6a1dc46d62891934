// What is wrong with the page that is shown, after WCAG 2.2 AA: names, roles, labels, headings, targets, contrast.
() => {
  const faults = [];
  const seen = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && element.getClientRects().length > 0;
  const say = (what, element) => faults.push(`${what}: ${element.outerHTML.replace(/\s+/g, " ").slice(0, 160)}`);
  const text = (element) => {
    if (element.nodeType === Node.TEXT_NODE) return element.textContent;
    if (element.getAttribute?.("aria-hidden") === "true") return "";
    return element.getAttribute?.("aria-label") || element.getAttribute?.("alt") || Array.from(element.childNodes, text).join(" ");
  };
  const named = (element) => {
    const by = element.getAttribute("aria-labelledby");
    if (by) return by.split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join("");
    const labels = element.labels ? Array.from(element.labels, text).join("") : "";
    return element.getAttribute("aria-label") || labels || (element.matches("input, select, textarea") ? "" : text(element));
  };

  // Names, roles and labels (1.1.1, 1.3.1, 3.3.2, 4.1.2)
  for (const element of document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0'], [role=img], [role=group]")) {
    if (seen(element) && !named(element).trim()) say("no name", element);
  }
  for (const image of document.querySelectorAll("img")) if (!image.hasAttribute("alt")) say("no alt", image);
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push(`id twice: ${id}`);
  for (const element of document.querySelectorAll("[aria-labelledby], [aria-describedby]")) {
    for (const name of ["aria-labelledby", "aria-describedby"]) {
      const to = element.getAttribute(name);
      if (to && !document.getElementById(to)) say(`${name} leads nowhere`, element);
    }
  }
  const roles = ["img", "group", "status", "alert", "presentation", "none"];
  for (const element of document.querySelectorAll("[role]")) if (!roles.includes(element.getAttribute("role"))) say("odd role", element);
  for (const element of document.querySelectorAll("[aria-hidden=true] a, [aria-hidden=true] button, [aria-hidden=true] input")) say("hidden, but in the tab order", element);
  for (const element of document.querySelectorAll("[tabindex]")) if (element.tabIndex > 0) say("tab order of its own", element);
  for (const cell of document.querySelectorAll("th")) if (!cell.getAttribute("scope")) say("no scope", cell);
  for (const list of document.querySelectorAll("ul, ol")) for (const child of list.children) if (child.tagName !== "LI") say("no list item", child);

  // Structure (1.3.1, 2.4.1, 2.4.2, 3.1.1)
  if (!document.documentElement.lang) faults.push("no language");
  if (!document.title.trim()) faults.push("no title");
  if (document.querySelectorAll("main").length !== 1) faults.push("not one main");
  let level = 0;
  for (const heading of document.querySelectorAll("h1, h2, h3, h4")) {
    const own = Number(heading.tagName[1]);
    if (own > level + 1) say(`heading after level ${level}`, heading);
    level = own;
  }

  // Targets of 24 px or more, but for links in a line of text (2.5.8)
  for (const element of document.querySelectorAll("button, .button, select, input:not([type=hidden]):not([type=file]), summary, nav a")) {
    const box = element.getBoundingClientRect();
    const target = element.closest("label")?.getBoundingClientRect() ?? box;
    if (seen(element) && Math.max(box.height, target.height) < 24) say(`only ${Math.round(box.height)} px high`, element);
  }

  // Contrast of text: 4.5, of large text 3 (1.4.3); of the edges of fields 3 (1.4.11)
  const rgb = (colour) => {
    const parts = colour.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
    return parts.length === 3 ? [...parts, 1] : parts;
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const paper = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) {
      const colour = rgb(getComputedStyle(each).backgroundColor);
      if (colour[3] > 0) layers.unshift(colour);
      if (colour[3] === 1) break;
    }
    return layers.reduce((below, top) => over(top, below), rgb(getComputedStyle(document.documentElement).backgroundColor));
  };
  const light = (colour) => colour.slice(0, 3).map((value) => value / 255).map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)).reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  for (const element of document.querySelectorAll("body *")) {
    const own = Array.from(element.childNodes).some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    if (!own || !seen(element) || element.matches("title, .hidden, option")) continue;
    const style = getComputedStyle(element);
    const svg = element.namespaceURI.endsWith("svg");
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const below = paper(element);
    const found = contrast(over(rgb(svg ? style.fill : style.color), below), below);
    if (found < (large ? 3 : 4.5)) say(`contrast ${found.toFixed(2)}`, element);
  }
  for (const element of document.querySelectorAll("input:not([type=hidden]):not([type=range]):not([type=file]), select, button, a.button")) {
    if (!seen(element) || element.matches("[type=checkbox], [type=radio]")) continue;
    const below = paper(element.parentElement);
    const found = contrast(over(rgb(getComputedStyle(element).borderTopColor), below), below);
    if (found < 3) say(`contrast of the edge ${found.toFixed(2)}`, element);
  }
  if (document.documentElement.scrollWidth > window.innerWidth) faults.push(`wider than the screen by ${document.documentElement.scrollWidth - window.innerWidth} px`);
  return faults;
}
