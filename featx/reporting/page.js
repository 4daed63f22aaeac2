(() => {
  "use strict";
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const kept = read("featx-pictures");
  const address = (name) => Object.hasOwn(kept.images, name) ? "data:image/jpeg;base64," + kept.images[name] : "";

  // A click enlarges a picture.
  const large = document.querySelector("dialog.large");
  addEventListener("click", (e) => {
    const button = e.target.closest && e.target.closest(".zoom");
    if (button) {
      const small = button.querySelector("img");
      const into = large.querySelector("img");
      into.src = small.src;
      into.alt = small.alt;
      large.querySelector("p").textContent = small.alt;
      large.showModal();
    } else if (e.target === large) large.close();
  });

  // Every prediction: sorted, searched, and laid out a part at a time.
  const table = read("featx-table");
  const section = document.getElementById("predictions");
  const body = section.querySelector("tbody");
  const find = document.getElementById("table-find");
  const onlyWrong = document.getElementById("table-wrong");
  const more = document.getElementById("table-more");
  const STEP = 25;
  let by = -1;
  let down = false;
  let found = table.rows;
  let laid = 0;
  const make = (tag, text, kind) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    if (kind) element.className = kind;
    return element;
  };
  const figure = (value) => value === null ? "" : table.numeric ? value.toPrecision(4) : (100 * value).toFixed(1) + "\u202f%";
  const line = ([id, name, truth, called, value, wrong]) => {
    const tr = make("tr");
    const cell = make("td", undefined, "pic");
    const source = address(id);
    if (source) {
      const button = make("button", undefined, "zoom");
      button.type = "button";
      button.setAttribute("aria-label", "Enlarge " + name);
      const image = make("img");
      image.src = source;
      image.alt = name + ": " + truth + (wrong ? ", called " + called : "");
      button.append(image);
      cell.append(button);
    }
    tr.append(cell, make("td", name, "name"), make("td", truth), make("td"));
    tr.lastChild.append(make(wrong ? "b" : "span", called, wrong ? "no" : ""));
    if (table.columns.length > 3) tr.append(make("td", figure(value), "num"));
    return tr;
  };
  const lay = () => {
    body.append(...found.slice(laid, laid + STEP).map(line));
    laid = Math.min(found.length, laid + STEP);
    more.hidden = laid >= found.length;
    const all = table.rows.length.toLocaleString("en");
    document.getElementById("table-count").textContent =
      found.length === table.rows.length ? all + " test images." : found.length.toLocaleString("en") + " of " + all + " test images.";
  };
  const compare = (a, b) => {
    const [x, y] = [a[by + 1], b[by + 1]];
    if (typeof x === "number" && typeof y === "number") return x - y;
    return String(x).localeCompare(String(y), "en", { numeric: true });
  };
  const again = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = table.rows.filter((row) => {
      if (onlyWrong && onlyWrong.checked && !row[5]) return false;
      const text = (row[1] + " " + row[2] + " " + row[3]).toLowerCase();
      return words.every((word) => text.includes(word));
    });
    if (by >= 0) found.sort((a, b) => (down ? -1 : 1) * compare(a, b));
    body.replaceChildren();
    laid = 0;
    lay();
  };
  const head = make("tr");
  head.append(make("td"));
  table.columns.forEach((title, k) => {
    const th = make("th", undefined, k > 2 ? "num" : "");
    th.scope = "col";
    const button = make("button", title);
    button.type = "button";
    button.addEventListener("click", () => {
      down = by === k && !down;
      by = k;
      for (const other of head.querySelectorAll("th")) {
        other.removeAttribute("aria-sort");
        other.firstChild.textContent = other.firstChild.textContent.replace(/ [\u2191\u2193]$/, "");
      }
      th.setAttribute("aria-sort", down ? "descending" : "ascending");
      button.textContent = title + (down ? " \u2193" : " \u2191");
      again();
    });
    th.append(button);
    head.append(th);
  });
  section.querySelector("thead").append(head);
  find.addEventListener("input", again);
  if (onlyWrong) onlyWrong.addEventListener("change", again);
  more.addEventListener("click", lay);
  section.hidden = false;
  lay();

  const map = document.querySelector(".map");
  if (!map) return;
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
    const source = address(kept.points[Number(p.dataset.k)]);
    image.hidden = !source;
    if (source) image.src = source;
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
