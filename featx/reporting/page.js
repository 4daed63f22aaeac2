(() => {
  "use strict";
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });
  const map = document.querySelector(".map");
  if (!map) return;
  const pictures = JSON.parse(document.getElementById("featx-pictures").textContent);
  const tip = document.querySelector(".tip");
  const image = tip.querySelector("img");
  const box = tip.parentElement;
  const points = [...map.querySelectorAll("[data-k]")];
  // The arrow keys walk from left to right.
  const order = points.slice().sort((a, b) => a.getBBox().x - b.getBBox().x);
  const titles = new Map();
  for (const p of points) {
    const title = p.querySelector("title");
    titles.set(p, title.textContent);
    title.remove(); // the card says it; two tooltips would be one too many
  }
  let shown = null;
  const hide = () => {
    if (shown) shown.classList.remove("on");
    shown = null;
    tip.hidden = true;
  };
  const show = (p) => {
    if (shown === p) return;
    hide();
    shown = p;
    p.classList.add("on");
    const picture = pictures[Number(p.dataset.k)];
    image.hidden = !picture;
    if (picture) image.src = "data:image/jpeg;base64," + picture;
    image.alt = titles.get(p);
    tip.querySelector("p").textContent = titles.get(p);
    tip.hidden = false;
    const at = p.getBoundingClientRect();
    const inside = box.getBoundingClientRect();
    const x = at.left + at.width / 2 - inside.left;
    const y = at.top - inside.top;
    const left = Math.min(Math.max(0, x - tip.offsetWidth / 2), inside.width - tip.offsetWidth);
    const above = y - tip.offsetHeight - 10;
    tip.style.left = left + "px";
    tip.style.top = (above > 0 ? above : y + at.height + 10) + "px";
  };
  // The nearest point answers: a finger, or a small screen, seldom hits one.
  const svg = map.querySelector("svg");
  const centres = points.map((p) => {
    const b = p.getBBox();
    return [b.x + b.width / 2, b.y + b.height / 2];
  });
  const nearest = (e) => {
    const matrix = svg.getScreenCTM();
    const at = new DOMPoint(e.clientX, e.clientY).matrixTransform(matrix.inverse());
    let best = null;
    let least = (22 / matrix.a) ** 2;
    centres.forEach(([x, y], k) => {
      const far = (x - at.x) ** 2 + (y - at.y) ** 2;
      if (far < least) [best, least] = [points[k], far];
    });
    return best;
  };
  const follow = (e) => {
    const p = nearest(e);
    if (p) show(p);
    else hide();
  };
  map.addEventListener("pointermove", follow);
  map.addEventListener("pointerdown", follow);
  map.addEventListener("pointerleave", () => { if (document.activeElement !== map) hide(); });
  map.addEventListener("blur", hide);
  map.addEventListener("focus", () => { if (!shown && order.length && map.matches(":focus-visible")) show(order[0]); });
  map.addEventListener("keydown", (e) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
    if (e.key === "Escape") return hide();
    if (!(e.key in steps)) return;
    e.preventDefault();
    const k = shown ? order.indexOf(shown) + steps[e.key] : 0;
    show(order[(k + order.length) % order.length]);
  });
})();
