(() => {
  "use strict";
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
  map.addEventListener("pointerover", (e) => {
    const p = e.target.closest("[data-k]");
    if (p) show(p);
  });
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
