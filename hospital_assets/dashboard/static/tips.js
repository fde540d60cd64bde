// Tooltips over what the server has drawn. A mark says its values in its <title>, which browsers show slowly and
// only to the mouse: here they come at once, and from the keyboard (arrow keys on a figure that has the focus).
const tip = document.createElement("div");
tip.className = "tip";
let shown = null;

function hide() {
  if (!shown) return;
  shown.mark.append(shown.title);
  shown.mark.classList.remove("on");
  shown = null;
  tip.remove();
}

function show(plot, mark) {
  if (mark === shown?.mark) return;
  hide();
  const title = mark.querySelector(":scope > title");
  if (!title) return;
  // The browser must not show it once more.
  title.remove();
  shown = { mark, title };
  mark.classList.add("on");
  tip.textContent = title.textContent;
  plot.append(tip);
  // Beside the mark, where there is room inside the figure.
  const [around, at, own] = [plot, mark, tip].map((e) => e.getBoundingClientRect());
  const middle = at.left + at.width / 2 - around.left;
  const right = middle + 12;
  const left = right + own.width <= around.width ? right : middle - 12 - own.width;
  const [above, below] = [at.top - around.top - own.height - 6, at.bottom - around.top + 6];
  const top = at.height > around.height / 2 ? 8 : above < 0 ? below : above;
  tip.style.left = Math.max(0, left) + "px";
  tip.style.top = Math.max(0, Math.min(top, around.height - own.height)) + "px";
}

const marksOf = (plot) => [...plot.querySelectorAll("svg :has(> title), svg .on")];

function step(plot, key) {
  const marks = marksOf(plot);
  const at = marks.indexOf(shown?.mark);
  // Up and down go to the next row of cells.
  const row = plot.dataset.kind === "heatmap" ? marks.filter((m) => m.getAttribute("y") === marks[0].getAttribute("y")).length : 1;
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + row, ArrowUp: at - row, Home: 0, End: marks.length - 1 }[key];
  const mark = marks[Math.max(0, Math.min(to, marks.length - 1))];
  if (!mark) return;
  show(plot, mark);
  document.getElementById("said").textContent = tip.textContent;
}

// Figures of a page that has just come can be reached from the keyboard.
export function tips(root) {
  for (const plot of root.querySelectorAll(".plot")) plot.tabIndex = 0;
}

document.addEventListener("pointerover", (event) => {
  const plot = event.target.closest?.(".plot");
  const mark = event.target.closest?.(".plot svg :has(> title), .plot svg .on");
  if (plot && mark) show(plot, mark);
  // What the keyboard shows stays when the page scrolls under the mouse.
  else if (!tip.contains(event.target) && !document.querySelector(".plot:focus-visible")) hide();
});
document.documentElement.addEventListener("pointerleave", hide);
document.addEventListener("focusout", hide);
document.addEventListener("focusin", (event) => {
  // The newest value of a line, the first mark of anything else.
  if (event.target.matches(".plot:focus-visible")) step(event.target, event.target.dataset.kind === "series" ? "End" : "Home");
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") hide();
  else if (event.target.matches?.(".plot") && /^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) {
    event.preventDefault();
    step(event.target, event.key);
  }
});
