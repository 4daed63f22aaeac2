"use strict";
const PAGE = 60;
const by = (id) => document.getElementById(id);
const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const percent = (x) => `${(100 * x).toFixed(1)}\u202f%`;
const state = { order: "", rows: [], total: 0, at: -1, chosen: new Set(), classes: [], board: null, past: [], asked: 0 };

function make(tag, text = "", kind = "") {
  const found = document.createElement(tag);
  found.textContent = text;
  if (kind) found.className = kind;
  return found;
}

async function call(path, method = "GET", body) {
  const options = { method };
  if (body !== undefined) Object.assign(options, { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the studio does not answer; is featx studio still running?");
  }
  const found = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(found.error || `the studio answers ${response.status}`);
  return found;
}

function complain(error) {
  by("problem").textContent = error ? error.message : "";
  by("problem").hidden = !error;
}

// ---- what stands above the rows --------------------------------------------------------------

async function refresh() {
  const board = await call("v1/board");
  const before = state.board;
  state.board = board;
  state.classes = [...board.classes.map((c) => c.name), ...state.classes.filter((n) => !board.classes.some((c) => c.name === n))];
  const fit = board.fit;
  by("over").textContent = board.cache;
  by("lead").textContent = `${count(board.rows, "picture", "pictures")}, ${count(board.classes.length, "class", "classes")}, ` +
    `${board.unlabelled ? count(board.unlabelled, "picture", "pictures") + " without a label" : "every one labelled"}` +
    `${board.changed ? `; ${count(board.changed, "label", "labels")} changed here` : ""}.`;
  by("n-changed").textContent = board.changed ? `(${board.changed.toLocaleString("en")})` : "";
  by("n-suspect").textContent = fit ? `(${fit.suspects.toLocaleString("en")})` : "";
  by("fit").disabled = board.fitting;
  by("fit").textContent = board.fitting ? "Fitting ..." : fit && fit.since ? `Refit (${fit.since} new)` : "Refit";
  by("file").textContent = board.file;
  by("command").textContent = board.command;
  by("fits").hidden = !board.history.length;
  by("history").replaceChildren(...board.history.map((one) => {
    const line = make("tr");
    const a = one.accuracy;
    line.append(make("td", one.labelled.toLocaleString("en")), make("td", `${percent(a.value)}${a.low == null ? "" : ` (${percent(a.low)} to ${percent(a.high)})`}`));
    return line;
  }));
  by("fit-notes").textContent = fit ? `By ${board.head}; always the commonest class would be right in ${percent(fit.baseline.value)}. ${fit.warnings.map((w) => w.message).join(" ")}` : "";
  const asked = by("label").value;
  by("label").replaceChildren(new Option("any", "any"), new Option(`none (${board.unlabelled})`, "="), ...board.classes.map((c) => new Option(`${c.name} (${c.count})`, `=${c.name}`)));
  by("label").value = [...by("label").options].some((o) => o.value === asked) ? asked : "any";
  say();
  if (board.problem) complain(new Error(board.problem));
  if (board.fitting) setTimeout(() => refresh().catch(complain), 700);
  else if (before && before.fitting && !board.problem) { complain(); if (state.order === "all") await reload(); else if (state.order) await load(); }
}

function say() {
  const { board, order, total } = state;
  if (!board || !order) return;
  const fit = board.fit;
  const what = {
    suspect: fit ? `${count(total, "label looks", "labels look")} wrong to heads that had not seen the picture, the most suspect first.` : "Refit, and labels that look wrong stand here.",
    next: `${count(total, "picture", "pictures")} to label next: ${fit ? "those of which the head is least sure, each unlike the others" : "one of each kind first; after a refit, those of which the head is least sure"}.`,
    all: `${count(total, "picture", "pictures")}.`,
    changed: `${count(total, "picture has", "pictures have")} another label than in the cache.`,
  }[order];
  const right = fit ? ` The head is right on ${percent(fit.accuracy.value)} of pictures that it had not seen.` : "";
  by("note").textContent = board.fitting ? "Fitting a head on the labels as they are ..." : what + right;
}

// ---- rows ------------------------------------------------------------------------------------

async function load(more = false) {
  const asked = ++state.asked;
  const label = by("label").value;
  const query = new URLSearchParams({ order: state.order, find: by("find").value, offset: more ? state.rows.length : 0, limit: PAGE });
  if (label !== "any") query.set("label", label.slice(1));
  const found = await call(`v1/rows?${query}`);
  if (asked !== state.asked) return; // another question was put meanwhile
  state.rows = more ? [...state.rows, ...found.rows] : found.rows;
  state.total = found.total;
  if (!more) { state.at = -1; state.chosen.clear(); by("grid").replaceChildren(); by("side").hidden = true; }
  found.rows.forEach((row) => by("grid").append(tile(row)));
  by("more").hidden = state.rows.length >= state.total;
  say();
}

async function reload() { // what the head says of the rows that are shown
  const n = state.rows.length, at = state.at;
  const shown = new Map();
  for (let offset = 0; offset < n; offset += 200) {
    const label = by("label").value;
    const query = new URLSearchParams({ order: state.order, find: by("find").value, offset, limit: 200 });
    if (label !== "any") query.set("label", label.slice(1));
    (await call(`v1/rows?${query}`)).rows.forEach((row) => shown.set(row.row, row));
  }
  state.rows = state.rows.map((row) => shown.get(row.row) || row);
  state.rows.forEach((row) => fill(row));
  if (at >= 0) show();
}

function tile(row) {
  const found = make("button", "", "tile");
  found.type = "button";
  found.dataset.row = row.row;
  const frame = make("span", "", "frame"), image = make("img");
  image.loading = "lazy";
  image.alt = "";
  image.src = `v1/rows/${row.row}/picture`;
  image.onerror = () => frame.replaceChildren("cannot be read");
  frame.append(image);
  found.append(frame, make("b"), make("i"));
  found.addEventListener("click", (event) => choose(state.rows.findIndex((r) => r.row === row.row), event.shiftKey));
  fill(row, found);
  return found;
}

function fill(row, place = document.querySelector(`.tile[data-row="${row.row}"]`)) {
  if (!place) return;
  place.classList.toggle("edited", row.edited);
  place.classList.toggle("blank-label", row.label == null);
  place.querySelector("b").textContent = row.label ?? "no label";
  const hint = !row.edited && row.suggested && row.suggested !== row.label ? row.suggested : row.label == null ? row.predicted : null;
  place.querySelector("i").textContent = hint ? `${hint}?` : "";
  place.setAttribute("aria-label", `${row.id}: ${row.label ?? "no label"}${hint ? `, perhaps ${hint}` : ""}`);
}

function choose(at, extend = false) {
  if (at < 0 || at >= state.rows.length) return;
  if (extend && state.at >= 0) {
    const [a, b] = [Math.min(at, state.at), Math.max(at, state.at)];
    for (let k = a; k <= b; k++) state.chosen.add(state.rows[k].row);
  } else {
    state.chosen = new Set([state.rows[at].row]);
    state.at = at;
  }
  document.querySelectorAll(".tile").forEach((t) => t.classList.toggle("on", state.chosen.has(Number(t.dataset.row))));
  show();
}

function show() {
  const row = state.rows[state.at];
  if (!row) return;
  by("side").hidden = false;
  by("unseen").hidden = true;
  by("picture").hidden = false;
  const address = `v1/rows/${row.row}/picture?large=true`;
  if (by("picture").getAttribute("src") !== address) {
    by("picture").src = address;
    near(row.row);
  }
  by("picture").alt = row.id;
  by("name").textContent = row.id;
  const facts = [["In the cache", row.given ?? "no label"]];
  if (row.predicted != null) facts.push(["The head says", `${row.predicted}, ${percent(row.confidence)}`]);
  if (row.quality != null) facts.push(["Fits its label", percent(row.quality)]);
  by("facts").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
  by("ask").textContent = state.chosen.size > 1 ? `Label of ${state.chosen.size} pictures` : "Its label";
  by("classes").replaceChildren(...state.classes.map((name, k) => {
    const button = make("button");
    button.type = "button";
    const n = state.board.classes.find((c) => c.name === name)?.count ?? 0;
    button.append(make("kbd", k < 9 ? String(k + 1) : ""), name, make("span", n.toLocaleString("en")));
    button.setAttribute("aria-pressed", String(row.label === name));
    button.addEventListener("click", () => act(() => give(() => name)));
    return button;
  }));
}

async function near(row) {
  by("near").replaceChildren();
  try {
    const found = await call(`v1/rows/${row}/near`);
    if (state.rows[state.at]?.row !== row) return;
    by("near").replaceChildren(...found.rows.map((other) => {
      const place = make("li"), frame = make("div", "", "frame"), image = make("img");
      image.src = `v1/rows/${other.row}/picture`;
      image.alt = other.id;
      frame.append(image);
      place.title = other.id;
      place.append(frame, make("b", other.label ?? "no label"));
      return place;
    }));
  } catch (error) { complain(error); }
}

// ---- edits -----------------------------------------------------------------------------------

async function put(body) {
  const found = await call("v1/labels", "PUT", body);
  for (const row of found.rows) {
    const at = state.rows.findIndex((r) => r.row === row.row);
    if (at >= 0) { state.rows[at] = row; fill(row); }
  }
}

let queue = Promise.resolve();

// One action after the other: a key that comes early is for the picture that the one before leads to.
function act(work) {
  queue = queue.then(work).catch(complain);
}

// Give each chosen picture the label that `pick` chooses for it; undefined leaves it alone.
async function give(pick) {
  const groups = new Map(), before = [];
  for (const row of state.rows.filter((r) => state.chosen.has(r.row))) {
    const label = pick(row);
    if (label !== undefined) groups.set(label, [...(groups.get(label) ?? []), row]);
  }
  try {
    for (const [label, rows] of groups) {
      const old = rows.map(({ row, label: had, edited }) => ({ row, label: had, edited }));
      await put({ rows: rows.map((r) => r.row), label });
      before.push(...old);
      if (label != null && !state.classes.includes(label)) state.classes.push(label);
    }
    complain();
  } finally {
    if (before.length) state.past.push(before);
    by("undo").disabled = !state.past.length;
  }
  if (before.length === 1 && state.at + 1 < state.rows.length) step(1);
  else show();
  refresh().then(show).catch(complain);
}

async function undo() {
  const last = state.past.pop();
  by("undo").disabled = !state.past.length;
  if (!last) return;
  for (const one of last) await put(one.edited ? { rows: [one.row], label: one.label } : { rows: [one.row], reset: true });
  const at = state.rows.findIndex((r) => r.row === last[0].row);
  if (at >= 0) { choose(at); scrollTo(at); }
  refresh().then(show).catch(complain);
}

function scrollTo(at) {
  document.querySelector(`.tile[data-row="${state.rows[at].row}"]`)?.scrollIntoView({ block: "nearest" });
}

function step(by_) {
  const at = Math.max(0, Math.min(state.rows.length - 1, state.at + by_));
  choose(at);
  if (state.rows[at]) scrollTo(at);
  if (at + 8 > state.rows.length && state.rows.length < state.total) load(true).catch(complain);
}

function close() {
  by("side").hidden = true;
  state.chosen.clear();
  document.querySelectorAll(".tile.on").forEach((t) => t.classList.remove("on"));
}

function columns() {
  return getComputedStyle(by("grid")).gridTemplateColumns.split(" ").length;
}

const suggestion = (row) => row.suggested ?? row.predicted ?? undefined;

const KEYS = {
  ArrowRight: () => step(1),
  ArrowLeft: () => step(-1),
  ArrowDown: () => step(state.at < 0 ? 1 : columns()),
  ArrowUp: () => step(-columns()),
  Escape: close,
  u: undo,
  k: () => give((row) => row.label),
  y: () => give(suggestion),
  0: () => give(() => null),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|SELECT|TEXTAREA/.test(event.target.tagName)) return;
  const name = /^[1-9]$/.test(event.key) ? state.classes[event.key - 1] : undefined;
  const work = name === undefined ? KEYS[event.key] : () => give(() => name);
  if (!work) return;
  act(work);
  event.preventDefault();
});

function order(name) {
  state.order = name;
  document.querySelectorAll("[data-order]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.order === name)));
  load().catch(complain);
}

document.querySelectorAll("[data-order]").forEach((b) => b.addEventListener("click", () => order(b.dataset.order)));
by("label").addEventListener("change", () => load().catch(complain));
let typing;
by("find").addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => load().catch(complain), 250); });
by("more").addEventListener("click", () => load(true).catch(complain));
by("close").addEventListener("click", close);
by("undo").addEventListener("click", () => act(undo));
by("keep").addEventListener("click", () => act(KEYS.k));
by("none").addEventListener("click", () => act(KEYS[0]));
by("new").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = by("new-class").value.trim();
  if (name) { act(() => give(() => name)); by("new-class").value = ""; by("new-class").blur(); }
});
by("fit").addEventListener("click", async () => {
  try { complain(); await call("v1/fit", "POST"); await refresh(); } catch (error) { complain(error); }
});
by("picture").addEventListener("error", () => { by("picture").hidden = true; by("unseen").hidden = false; });

refresh().then(() => { if (!state.order) order(state.board.unlabelled ? "next" : "all"); }).catch(complain);
