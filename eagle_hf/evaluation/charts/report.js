"use strict";
// What hovering or tapping says: the nearest mark of the drawing under the pointer.
const NEAR = 28; // pixels from a mark's edge
const GAP = 14;
const tip = document.getElementById("tip");
let chosen = null;

function distance(mark, x, y) {
  const box = mark.getBoundingClientRect();
  const across = Math.max(box.left - x, 0, x - box.right);
  const down = Math.max(box.top - y, 0, y - box.bottom);
  const centre = Math.hypot((box.left + box.right) / 2 - x, (box.top + box.bottom) / 2 - y);
  // inside several boxes the one whose centre is nearest counts
  return Math.hypot(across, down) + centre / 1000;
}

function nearest(drawing, x, y) {
  let best = null;
  let least = NEAR;
  for (const mark of drawing.querySelectorAll(".mark")) {
    const far = distance(mark, x, y);
    if (far < least) [best, least] = [mark, far];
  }
  return best;
}

function choose(mark) {
  if (chosen) chosen.classList.remove("chosen");
  chosen = mark;
  tip.hidden = !mark;
  if (!mark) return;
  mark.classList.add("chosen");
  tip.textContent = mark.dataset.tip;
  const box = mark.getBoundingClientRect();
  const size = tip.getBoundingClientRect();
  const middle = (box.left + box.right) / 2 - size.width / 2;
  const left = Math.min(Math.max(8, middle), document.documentElement.clientWidth - size.width - 8);
  const above = box.top - size.height - GAP;
  tip.style.transform = `translate(${left}px, ${above < 8 ? box.bottom + GAP : above}px)`;
}

for (const drawing of document.querySelectorAll(".drawing")) {
  const look = (event) => choose(nearest(drawing, event.clientX, event.clientY));
  drawing.addEventListener("pointermove", look);
  drawing.addEventListener("pointerdown", look);
  drawing.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") choose(null);
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") choose(null);
});
addEventListener("scroll", () => choose(null), { passive: true });

// On paper nothing can be opened: every table is, and those that were closed close again.
let closed = [];
function openAll() {
  if (closed.length) return;
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const details of closed) details.open = true;
}
function closeAgain() {
  for (const details of closed) details.open = false;
  closed = [];
}
addEventListener("beforeprint", openAll);
addEventListener("afterprint", closeAgain);
const paper = matchMedia("print");
paper.addEventListener("change", () => (paper.matches ? openAll() : closeAgain()));
