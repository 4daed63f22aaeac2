"use strict";
// Everything that a server or a file name says is set as text, never as markup.

const MOST_BARS = 10, NEAREST = 6, TOGETHER = 8, AT_ONCE = 2, TRIES = 6;
const TOGETHER_BYTES = 16e6;
const NARROW = "\u202f";
const by = (id) => document.getElementById(id);
const state = { model: null, items: [], shown: null, busy: 0, url: null, allBars: false, tokenAsked: null };
const pictures = new Map();

function make(name, kind, text) {
  const found = document.createElement(name);
  if (kind) found.className = kind;
  if (text !== undefined) found.textContent = text;
  return found;
}
const percent = (share) => {
  const text = (100 * share).toFixed(1);
  return (share < 1 && text === "100.0" ? "> 99.9" : share > 0 && text === "0.0" ? "< 0.1" : text) + NARROW + "%";
};
const usual = (model) => percent(model.training.quantile).replace(".0", "");
const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
const list = (names) => names.length < 2 ? names.join("") : names.slice(0, -1).join(", ") + " or " + names.at(-1);

// ---- the server ------------------------------------------------------------------------------

async function call(path, options = {}) {
  for (let tries = 0; ; tries++) {
    const token = sessionStorage.getItem("featx-token");
    const headers = token ? { Authorization: "Bearer " + token } : {};
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch {
      if (tries >= 2) throw new Error("The server does not answer.");
      await wait(1);
      continue;
    }
    if (response.status === 401) {
      await askToken(token);
    } else if (response.status === 503 && tries < TRIES) {
      await wait(Number(response.headers.get("Retry-After")) || 1);
    } else {
      return response;
    }
  }
}

function askToken(refused) {
  if (sessionStorage.getItem("featx-token") !== refused) return Promise.resolve(); // another call asked
  by("ask-problem").textContent = refused ? "That is not the token." : "";
  state.tokenAsked ??= new Promise((done) => {
    by("ask").showModal();
    by("ask").onclose = () => {
      sessionStorage.setItem("featx-token", by("token").value.trim());
      by("token").value = "";
      state.tokenAsked = null;
      done();
    };
  });
  return state.tokenAsked;
}

async function start() {
  try {
    const response = await call("v1/model");
    const model = await response.json();
    if (!response.ok) throw new Error(model.error);
    state.model = model;
    introduce(model);
  } catch (error) {
    complain(error.message);
  }
}

function introduce(model) {
  document.title = model.name + " · featx";
  by("over").textContent = model.name;
  const few = model.classes.length && model.classes.length <= 6;
  by("title").textContent = few ? list(model.classes).replace(/^./, (c) => c.toUpperCase()) + "?" : "What is in this picture?";
  const said = [];
  if (model.task === "regression") said.push("Estimates a number.");
  else if (!few) said.push(`Tells ${model.classes.length.toLocaleString("en")} classes apart.`);
  const accuracy = model.test.accuracy;
  if (accuracy) {
    const span = accuracy.low == null || accuracy.high == null ? "" : ` (95${NARROW}% interval ${(100 * accuracy.low).toFixed(1)} to ${percent(accuracy.high)})`;
    said.push(`Right on ${percent(accuracy.value)} of test images${span}.`);
  } else if (model.test.mae) said.push(`Off by ${model.test.mae.value.toPrecision(3)} on average on test images.`);
  if (model.decision) said.push(model.decision);
  by("lead").textContent = said.join(" ");
  by("limits").textContent = `Up to ${Math.floor(model.limits.file_bytes / 1e6)} MB each. Pictures go to this server only, and it does not keep them${model.watch ? `, but the features of the last ${model.watch.toLocaleString("en")}, to see whether pictures change` : ""}.`;
  by("drift").hidden = !model.watch;
  const rows = {
    Head: model.head, Network: `${model.backbone}, ${model.tap}`,
    "Trained on": `${model.n_train.toLocaleString("en")} images`, Created: model.created,
    "Nearest images": model.training ? `${model.training.metric}; of ${model.training.rows.toLocaleString("en")} training images. A picture further than ${model.training.limit.toPrecision(3)} from all of them is called unfamiliar: ${usual(model)} of the training images have another within that distance.` : model.no_training,
    "Runs on": `${model.device}, ${model.precision}${model.compiled ? ", compiled" : ""}`,
    Fingerprint: model.fingerprint,
  };
  for (const [name, value] of Object.entries(rows)) by("facts").append(make("dt", "", name), make("dd", "", value));
  const token = sessionStorage.getItem("featx-token") ? ' -H "Authorization: Bearer $FEATX_TOKEN"' : "";
  by("curl").textContent = `curl${token} -F files=@photo.jpg ${new URL("v1/predict", location.href).href}`;
  if (model.task === "regression") by("sure-head").textContent = "";
}

function complain(text) {
  by("problem").textContent = text;
  by("problem").hidden = !text;
}

// ---- pictures in -----------------------------------------------------------------------------

function add(files) {
  const found = [...files];
  if (!found.length || !state.model) return;
  complain("");
  by("drop").classList.add("done");
  by("drop-title").textContent = "Drop, paste or choose more";
  for (const file of found) {
    const item = { file, name: file.webkitRelativePath || file.name || "pasted picture", state: "waiting" };
    if (file.size > state.model.limits.file_bytes) fail(item, `larger than ${Math.floor(state.model.limits.file_bytes / 1e6)} MB`);
    state.items.push(item);
    addRow(item);
  }
  if (found.length === 1 || !state.shown) show(state.items.at(-found.length));
  tally();
  pump();
}

function pump() {
  while (state.busy < AT_ONCE) {
    const chunk = nextChunk();
    if (!chunk.length) return;
    state.busy++;
    send(chunk).finally(() => { state.busy--; pump(); });
  }
}

function nextChunk() {
  const chunk = [], limits = state.model.limits;
  let bytes = 0;
  for (const item of state.items) {
    if (item.state !== "waiting") continue;
    bytes += item.file.size;
    if (chunk.length && bytes > Math.min(TOGETHER_BYTES, 0.9 * limits.request_bytes)) break;
    item.state = "sent";
    chunk.push(item);
    if (chunk.length === Math.min(TOGETHER, limits.files)) break;
  }
  return chunk;
}

async function send(chunk) {
  const form = new FormData();
  for (const item of chunk) form.append("files", item.file, item.name);
  try {
    const response = await call(`v1/predict?nearest=${NEAREST}`, { method: "POST", body: form });
    const found = await response.json();
    if (!found.results) throw new Error(found.error || "The server gave no answer.");
    chunk.forEach((item, k) => finish(item, found.results[k]));
  } catch (error) {
    chunk.forEach((item) => fail(item, error.message));
  }
  chunk.forEach(update);
  tally();
  for (const item of chunk) await drawThumb(item);
}

function finish(item, result) {
  if (!result.error) Object.assign(item, { state: "done", result });
  else fail(item, result.error);
}
function fail(item, why) { Object.assign(item, { state: "failed", error: why }); }

function update(item) {
  fillRow(item);
  if (state.shown === item) show(item);
}

// ---- one answer ------------------------------------------------------------------------------

function show(item) {
  const changed = state.shown !== item;
  state.shown = item;
  if (changed) state.allBars = false;
  by("answer").hidden = false;
  by("name").textContent = item.name;
  if (changed) showPicture(item);
  showMap(item);
  for (const other of state.items) other.row?.classList.toggle("on", other === item);
  const label = by("label");
  label.className = item.state === "failed" ? "bad" : "";
  label.textContent = item.state === "failed" ? item.error : item.state === "done" ? text(item.result.label) : "…";
  by("says").textContent = item.state === "failed" ? "No answer" : item.state === "done" ? "The model says" : "Looking";
  const result = item.state === "done" ? item.result : null;
  showWarnings(result);
  showBars(result);
  showNearest(result);
  if (result && state.items.length === 1) announce(item);
  if (item.state === "failed" && state.items.length === 1) by("status").textContent = `${item.name}: ${item.error}`;
}

function text(label) {
  if (typeof label === "number") return String(Number(label.toPrecision(5)));
  return state.model.task === "multilabel" ? label.split("|").filter(Boolean).join(", ") || "none of them" : label;
}
// A probability belongs to one label.
const sure = (result) => result.probabilities?.[result.label] == null ? "" : percent(result.probabilities[result.label]);

function showPicture(item) {
  if (state.url) URL.revokeObjectURL(state.url);
  state.url = URL.createObjectURL(item.file);
  const picture = by("picture");
  picture.hidden = false;
  by("unseen").hidden = true;
  picture.alt = item.name;
  picture.onerror = () => { picture.hidden = true; by("unseen").hidden = false; };
  picture.src = state.url;
}

// ---- why ---------------------------------------------------------------------------------------

async function explain(item) {
  if (!item.map && !item.mapped) {
    item.mapped = true;
    item.mapError = null;
    showMap(item);
    const form = new FormData();
    form.append("files", item.file, item.name);
    try {
      const response = await call("v1/explain", { method: "POST", body: form });
      const found = await response.json();
      if (!response.ok) throw new Error(found.error || "The server gave no map.");
      item.map = found;
    } catch (error) {
      item.mapError = error.message;
    }
    item.mapped = Boolean(item.map);
  } else if (item.map) item.mapped = !item.mapped;
  if (state.shown === item) showMap(item);
}

function showMap(item) {
  const found = item.mapped ? item.map : null, waits = item.mapped && !item.map, note = by("why-note");
  by("why").hidden = item.state !== "done";
  by("why").disabled = waits;
  by("why").setAttribute("aria-pressed", String(Boolean(found)));
  by("why").textContent = waits ? "Looking where the answer comes from …" : found ? "Show the picture" : "Show where the answer comes from";
  by("map").hidden = by("legend").hidden = !found;
  if (found || by("unseen").hidden) by("picture").hidden = Boolean(found);
  note.hidden = !found && !item.mapError;
  note.textContent = item.mapError ?? "";
  if (!found) return;
  by("con").textContent = found.label == null ? "lowers the number" : `for ${found.against ?? "other classes"}`;
  by("pro").textContent = found.label == null ? "raises the number" : `for ${found.label}`;
  const kind = found.method === "exact" ? "The map is exact" : "The map is an approximation";
  note.textContent = [`${kind}: ${found.meaning.replace(/^(exact|an approximation): /, "")}${found.reason ? ` (${found.reason})` : ""}.`, ...found.notes].join(" ");
  by("map").setAttribute("aria-label", `${item.name}: where the answer ${text(found.predicted)} comes from`);
  drawMap(found, by("map"));
}

async function drawMap(found, canvas) {
  const bytes = Uint8Array.from(atob(found.picture.split(",")[1]), (c) => c.charCodeAt(0)), cells = make("canvas");
  const image = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
  const scale = Math.max(1, Math.round(448 / image.width));
  canvas.width = scale * image.width;
  canvas.height = scale * image.height;
  cells.height = found.map.length;
  cells.width = found.map[0].length;
  const most = Math.max(1e-12, ...found.map.flat().map(Math.abs)), drawn = cells.getContext("2d");
  found.map.forEach((line, row) => line.forEach((value, column) => {
    const [red, green, blue] = value > 0 ? [178, 24, 43] : [33, 102, 172];
    drawn.fillStyle = `rgba(${red}, ${green}, ${blue}, ${0.75 * Math.abs(value) / most})`;
    drawn.fillRect(column, row, 1, 1);
  }));
  const shown = canvas.getContext("2d");
  shown.filter = "grayscale(1)";
  shown.drawImage(image, 0, 0, canvas.width, canvas.height);
  shown.filter = "none";
  shown.imageSmoothingQuality = "high";
  shown.drawImage(cells, 0, 0, canvas.width, canvas.height);
}

async function showDrift() {
  if (!by("drift").open) return;
  const response = await call("v1/drift"), found = await response.json();
  const rows = {}, n = (count) => count.toLocaleString("en");
  if (found.p_value == null) {
    by("drift-verdict").textContent = `Not known yet: ${n(found.pictures)} of the ${n(found.least)} pictures that a test needs have come. Copies and pictures of the training do not count.`;
  } else {
    by("drift-verdict").textContent = `${found.drifted ? "The pictures have changed" : "No change was found"}: p = ${found.p_value.toPrecision(2)} on the last ${n(found.tested)} pictures.`;
    const far = found.unfamiliar;
    rows.Unfamiliar = `${percent(far.value)} (${percent(far.low)} to ${percent(far.high)}); ${percent(far.expected)} without a change`;
    for (const [name, share] of Object.entries(found.predicted).slice(0, MOST_BARS)) rows[`Said ${name}`] = (share.before == null ? "" : `${percent(share.before)} before, `) + `${percent(share.now)} now`;
  }
  by("drift-facts").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]));
  by("drift-note").textContent = `The test compares features of the last ${n(found.most)} pictures with those of the training. Each look is wrong with a chance of ${percent(found.level ?? 0.05).replace(".0", "")} if nothing has changed. A change is not an error: a new mix of pictures is one too.`;
}

// ---- one answer, in parts ----------------------------------------------------------------------

function showWarnings(result) {
  by("unfamiliar").hidden = !result?.unfamiliar;
  if (result?.unfamiliar) {
    by("unfamiliar").textContent = `This resembles nothing seen in training: the nearest training image is at ${result.nearest[0].distance.toPrecision(2)}, and ${usual(state.model)} of the training images have another within ${state.model.training.limit.toPrecision(2)}. Do not rely on the answer.`;
  }
  by("abstained").hidden = !result?.abstained;
  if (result?.abstained) by("abstained").textContent = `Too uncertain to answer: this one is left to you. ${state.model.decision}`;
}

function showBars(result) {
  const box = by("bars");
  box.replaceChildren();
  const all = Object.entries(result?.probabilities ?? {}).sort((a, b) => b[1] - a[1]);
  const given = state.model.task === "multilabel" ? result?.label.split("|") : null;
  const some = state.allBars ? all : all.slice(0, MOST_BARS);
  some.forEach(([name, share], k) => {
    const row = make("li"), track = make("span", "track"), fill = make("i");
    track.setAttribute("aria-hidden", "true");
    track.append(fill);
    const first = (given ? given.includes(name) : k === 0) ? " first" : "";
    row.append(make("span", "class" + first, name), make("span", "share" + first, percent(share)), track);
    box.append(row);
    requestAnimationFrame(() => { fill.style.width = `${100 * share}%`; });
  });
  by("more").hidden = all.length <= MOST_BARS;
  by("more").textContent = state.allBars ? `Show the first ${MOST_BARS}` : `Show all ${all.length.toLocaleString("en")} classes`;
}

function showNearest(result) {
  const near = result?.nearest ?? [];
  by("near-box").hidden = !near.length;
  const { training, no_training: without } = state.model;
  by("near-note").textContent = !result ? "" : !training ? `No nearest training images: ${without}.`
    : `The numbers are the ${training.metric}: 0 is the same picture, beyond ${training.limit.toPrecision(2)} is unusual.`;
  by("near").replaceChildren(...near.map((one) => {
    const item = make("li"), frame = make("div", "frame", one.id);
    item.append(frame, make("b", "", text(one.label)), make("span", "", one.distance.toFixed(3)));
    item.title = one.id;
    loadPicture(one.picture).then((url) => {
      if (!url) return;
      const image = make("img");
      image.src = url;
      image.alt = one.id;
      frame.replaceChildren(image);
    });
    return item;
  }));
}

function loadPicture(path) {
  if (!pictures.has(path)) {
    pictures.set(path, call(path.replace(/^\//, "")).then(async (r) => r.ok ? URL.createObjectURL(await r.blob()) : null, () => null));
  }
  return pictures.get(path);
}

function announce(item) {
  const { label, unfamiliar, abstained } = item.result;
  const share = sure(item.result) && `, ${sure(item.result)}`;
  const notes = [unfamiliar ? "it resembles nothing seen in training" : "", abstained ? "too uncertain to answer" : ""].filter(Boolean);
  by("status").textContent = `${item.name}: ${text(label)}${share}${notes.length ? ". Warning: " + notes.join(", ") : ""}`;
}

// ---- many answers ----------------------------------------------------------------------------

function addRow(item) {
  const row = item.row = make("tr"), thumb = make("td", "thumb"), name = make("td", "name"), button = make("button", "", item.name);
  thumb.append(make("span", "none"));
  button.type = "button";
  button.onclick = () => { show(item); by("answer").scrollIntoView({ block: "nearest", behavior: "smooth" }); };
  name.append(button);
  row.append(thumb, name, make("td", "label"), make("td", "num"), make("td", "note"));
  row.setAttribute("role", "row");
  for (const cell of row.children) cell.setAttribute("role", "cell");
  by("rows").append(row);
  fillRow(item);
}

function fillRow(item) {
  const [, , label, share, note] = item.row.children, result = item.result;
  label.textContent = result ? text(result.label) : item.state === "failed" ? "" : "…";
  share.textContent = result ? sure(result) : "";
  const notes = [result?.unfamiliar ? "unlike the training images" : "", result?.abstained ? "left to you" : ""];
  note.textContent = item.error ?? notes.filter(Boolean).join(", ");
  note.classList.toggle("bad", Boolean(item.error));
}

async function drawThumb(item) {
  try {
    const bitmap = await createImageBitmap(item.file, { resizeHeight: 88, resizeQuality: "medium" });
    const canvas = make("canvas"), side = Math.min(bitmap.width, bitmap.height);
    canvas.width = canvas.height = 88;
    canvas.setAttribute("aria-hidden", "true");
    canvas.getContext("2d").drawImage(bitmap, (bitmap.width - side) / 2, (bitmap.height - side) / 2, side, side, 0, 0, 88, 88);
    bitmap.close();
    item.row.firstChild.replaceChildren(canvas);
  } catch { /* a format that the browser cannot read keeps its blank */ }
}

function tally() {
  const n = state.items.length, done = state.items.filter((i) => i.state === "done"), failed = state.items.filter((i) => i.state === "failed").length;
  const finished = done.length + failed;
  by("batch").hidden = n < 2;
  by("batch-title").textContent = finished < n ? `${finished.toLocaleString("en")} of ${n.toLocaleString("en")} pictures` : `${n.toLocaleString("en")} pictures`;
  by("progress").max = n || 1;
  by("progress").value = finished;
  by("progress").hidden = finished === n;
  by("csv").disabled = finished < n;
  const counts = new Map();
  if (state.model.classes.length) for (const { result } of done) counts.set(text(result.label), (counts.get(text(result.label)) ?? 0) + 1);
  const said = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 8).map(([name, count]) => `${name} ${count}`);
  const odd = done.filter((i) => i.result.unfamiliar).length, left = done.filter((i) => i.result.abstained).length;
  if (odd) said.push(`${odd} unlike the training images`);
  if (left) said.push(`${left} left to you`);
  if (failed) said.push(`${failed} could not be read`);
  by("tally").textContent = said.join(" · ");
  if (n > 1 && finished === n) by("status").textContent = `${n} pictures: ${said.join(", ")}`;
}

function csv() {
  const scored = state.items.some((i) => i.result?.probabilities) ? state.model.classes : [];
  const decided = Object.keys(state.model.thresholds).length > 0, near = Boolean(state.model.training);
  const header = ["id", "label", ...scored.map((c) => "p_" + c), ...(decided ? ["abstained"] : []), ...(near ? ["distance", "unfamiliar"] : []), "error"];
  const lines = state.items.map(({ name, result, error }) => [
    name, result?.label, ...scored.map((c) => result?.probabilities?.[c]), ...(decided ? [result?.abstained] : []),
    ...(near ? [result?.nearest[0]?.distance, result?.unfamiliar] : []), error,
  ]);
  // Text that a spreadsheet would compute gets an apostrophe, as `featx predict --excel-safe` does.
  const safe = (value) => typeof value === "string" && /^[=+\-@\t\r\n'\uff1d\uff0b\uff0d\uff20]/.test(value) ? "'" + value : value;
  const field = (value) => value == null ? "" : /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
  return [header, ...lines].map((line) => line.map(safe).map(field).join(",") + "\r\n").join("");
}

function download() {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = state.model.name.replace(/\.featx$/, "") + "-labels.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function clear() {
  state.items = [];
  state.shown = null;
  by("rows").replaceChildren();
  by("answer").hidden = true;
  by("status").textContent = "";
  by("drop").classList.remove("done");
  by("drop-title").textContent = "Drop pictures here";
  tally();
  by("choose").focus();
}

// ---- dropping, pasting, choosing -------------------------------------------------------------

async function filesOf(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files];
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((done, no) => entry.file(done, no));
    if (file.type.startsWith("image/")) found.push(file);
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((done, no) => reader.readEntries(done, no));
    if (!some.length) return;
    for (const inner of some) await walk(inner, found);
  }
}

let depth = 0;
const over = (by_) => { depth = Math.max(0, depth + by_); by("drop").classList.toggle("over-it", depth > 0); };
document.addEventListener("dragenter", (event) => { event.preventDefault(); over(1); });
document.addEventListener("dragleave", () => over(-1));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  over(-99);
  try { add(await filesOf(event.dataTransfer)); } catch { complain("What was dropped cannot be read."); }
});
document.addEventListener("paste", (event) => {
  if (event.target instanceof HTMLInputElement) return;
  const files = event.clipboardData?.files ?? [];
  if (files.length) add(files);
  else complain("The clipboard holds no picture.");
});
for (const [button, input] of [["choose", "files"], ["take", "camera"]]) {
  by(button).onclick = () => by(input).click();
  by(input).onchange = (event) => { add(event.target.files); event.target.value = ""; };
}
by("more").onclick = () => { state.allBars = !state.allBars; showBars(state.shown.result); };
by("why").onclick = () => explain(state.shown);
by("drift").ontoggle = () => showDrift().catch((error) => { by("drift-verdict").textContent = error.message; });
by("csv").onclick = download;
by("clear").onclick = clear;
by("take").hidden = !navigator.maxTouchPoints;
start();
