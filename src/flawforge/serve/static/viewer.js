// The slider between picture and heat map, of every result on the page.

export const texts = JSON.parse(document.body.dataset.texts);

/** "Judging {name}" with {name: "part.png"}. */
export function say(text, facts) {
  return text.replace(/\{(\w+)\}/g, (_, name) => facts[name]);
}

/** Shows as much of the heat map as the slider says. */
function blend(slider) {
  const map = slider.closest(".viewer").querySelector(".heat-map");
  if (map) map.style.opacity = slider.value / 100;
}

/** Every slider below this element as it stands now. */
export function blendAll(root = document) {
  for (const slider of root.querySelectorAll("input.heat")) blend(slider);
}

document.addEventListener("input", (event) => {
  if (event.target.matches("input.heat")) blend(event.target);
});
blendAll();
