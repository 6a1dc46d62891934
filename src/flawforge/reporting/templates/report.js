(function () {
  "use strict";
  document.querySelectorAll("button.zoom").forEach(function (button) {
    button.addEventListener("click", function () { button.closest("figure").classList.toggle("enlarged"); });
  });
  var slider = document.querySelector("input.limit");
  if (!slider) { return; }
  var data = JSON.parse(slider.dataset.scores), axis = data.axis, first = slider.value;
  var text = document.querySelector(".moved"), original = text.textContent;
  var line = document.querySelector("line.movable"), label = document.querySelector("text.movable");
  var dot = document.querySelector("circle.movable"), home = label.getAttribute("x");
  function above(values, limit) { return values.filter(function (value) { return value > limit; }).length; }
  function bend(value) { return axis.log ? Math.log10(value) : value; }
  function percent(share) { return (100 * share).toFixed(1).replace(".0", "") + " %"; }
  function place(range, share) { return range[0] + Math.min(share / range[2], 1) * (range[1] - range[0]); }
  function move(share, atHome) {
    var low = bend(axis.low), position = low + share * (bend(axis.high) - low);
    var limit = atHome ? data.limit : axis.log ? Math.pow(10, position) : position;
    var alarms = above(data.good, limit), found = above(data.defective, limit), x = axis.start + share * (axis.end - axis.start);
    var words = "Limit " + Number(limit.toPrecision(4)) + ": " + alarms + " of " + data.good.length + " " + data.what + " pictures rejected";
    if (data.good.length) { words += " (" + percent(alarms / data.good.length) + ")"; }
    if (data.defective.length) {
      words += ", " + found + " of " + data.defective.length + " defects found (" + percent(found / data.defective.length) + ")";
    }
    text.textContent = atHome ? original : words;
    line.setAttribute("x1", x); line.setAttribute("x2", x);
    label.setAttribute("x", atHome ? home : label.classList.contains("end") ? x - 4 : x + 4);
    if (dot && data.good.length && data.defective.length) {
      dot.setAttribute("cx", place(data.x, alarms / data.good.length));
      dot.setAttribute("cy", place(data.y, 1 - found / data.defective.length));
    }
  }
  slider.addEventListener("input", function () { move(Number(slider.value), false); });
  document.querySelector("button.reset").addEventListener("click", function () { slider.value = first; move(Number(first), true); });
})();
