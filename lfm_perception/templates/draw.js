// SPDX-License-Identifier: Apache-2.0
// Zones and lines, drawn over a picture with mouse, touch or pen: what is drawn, and how it changes.
// `draw.html` is the page around it. Points are normalized, [x, y]. Pixels are those of the screen.
const DIGITS = 1e4; // points are kept to a ten-thousandth of the image
const SNAP = 6, SLOP = 8; // pixels: from the image's edge; of a hand that holds still
const STEP = 0.002, LARGE_STEP = 0.02; // of the arrow keys, shares of the image
const COLOURS = { zone: "#1769e0", line: "#c2410c", wrong: "#d3281d" };
const { shapes: loaded, anchor: usualAnchor, limits } = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const over = byId("over");

let shapes = loaded; // {kind, name, points, anchor}
let tool = shapes.length ? "move" : "zone";
let draft = null; // the shape that is being drawn
let selected = null, corner = -1; // a shape, and the number of its corner
let drag = null; // what the pointer holds: {begin, points, before, moved}
let pointer = null; // where the pointer is
let problem = ""; // what the last action could not do
let past = [], future = []; // earlier shapes, and those that were undone
let renamed = null; // the shape whose name is being typed, which is one step of undo
let saved = ""; // the YAML that was copied or downloaded last

// --- changes --------------------------------------------------------------------------------------------

const copyOf = (value) => JSON.parse(JSON.stringify(value));

/** Remember the shapes as they are, or were, for undo. */
function remember(before = copyOf(shapes)) {
  past.push(before);
  future = [];
  renamed = null;
}

function travel(from, to) {
  if (draft && from === past) {
    draft.points.pop();
    if (!draft.points.length) draft = null;
  } else if (!draft && from.length) {
    to.push(copyOf(shapes));
    shapes = from.pop();
    renamed = null;
    select(null);
  }
}

function select(shape, index = -1) {
  selected = shape;
  corner = index;
}

function freeName(kind) {
  const names = new Set(shapes.filter((each) => each.kind === kind).map((each) => each.name));
  let number = 1;
  while (names.has(`${kind} ${number}`)) number++;
  return `${kind} ${number}`;
}

function finish() {
  problem = draft.kind === "zone" && draft.points.length > 2 ? edgeProblem(draft.points[0], true) : "";
  problem = problem || placeProblem(draft.kind, draft.points);
  if (problem) {
    if (draft.kind === "line") draft = null;
    return;
  }
  remember();
  shapes.push(draft);
  select(draft);
  draft = null;
}

function remove() {
  if (!selected) return;
  remember();
  if (corner >= 0 && selected.points.length > 3) selected.points.splice(corner, 1);
  else shapes = shapes.filter((each) => each !== selected);
  select(shapes.includes(selected) ? selected : null);
}

const rounded = (value) => Math.round(value * DIGITS) / DIGITS;
const inside = (value) => Math.min(Math.max(value, 0), 1);

/** Move points by an offset that keeps all of them in the image. */
function shifted(points, dx, dy) {
  const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
  dx = Math.min(Math.max(dx, -Math.min(...xs)), 1 - Math.max(...xs));
  dy = Math.min(Math.max(dy, -Math.min(...ys)), 1 - Math.max(...ys));
  return points.map(([x, y]) => [rounded(x + dx), rounded(y + dy)]);
}

// --- pointer --------------------------------------------------------------------------------------------

const pixels = ([x, y]) => [x * over.clientWidth, y * over.clientHeight];
const distance = (a, b) => Math.hypot(pixels(a)[0] - pixels(b)[0], pixels(a)[1] - pixels(b)[1]);
const reach = (event) => (event.pointerType === "touch" ? 22 : 11);

function positionOf(event) {
  const box = over.getBoundingClientRect();
  const snapped = (value, size) => (value < SNAP ? 0 : value > size - SNAP ? 1 : rounded(inside(value / size)));
  return [snapped(event.clientX - box.left, box.width), snapped(event.clientY - box.top, box.height)];
}

function toEdge(point, [a, b]) {
  const [p, q, r] = [point, a, b].map(pixels), [ex, ey] = [r[0] - q[0], r[1] - q[1]];
  const along = inside(((p[0] - q[0]) * ex + (p[1] - q[1]) * ey) / (ex * ex + ey * ey || 1));
  return Math.hypot(p[0] - q[0] - along * ex, p[1] - q[1] - along * ey);
}

function contains(shape, point, near) {
  const edges = shape.kind === "line" ? [shape.points] : edgesOf(shape.points);
  if (edges.some((edge) => toEdge(point, edge) < near)) return true;
  const passed = edges.filter(([a, b]) => a[1] > point[1] !== b[1] > point[1] && point[0] < a[0] + ((point[1] - a[1]) / (b[1] - a[1])) * (b[0] - a[0]));
  return shape.kind === "zone" && passed.length % 2 === 1;
}

const middles = (points) => edgesOf(points).map(([a, b]) => [rounded((a[0] + b[0]) / 2), rounded((a[1] + b[1]) / 2)]);

/** Take what is under the pointer: a corner, the middle of an edge, which becomes a corner, or a shape. */
function take(point, near) {
  const before = copyOf(shapes);
  const ordered = [...(selected ? [selected] : []), ...[...shapes].reverse().filter((each) => each !== selected)];
  const under = (points) => points.findIndex((each) => distance(each, point) < near);
  const cornered = ordered.find((shape) => under(shape.points) >= 0);
  const edge = selected && selected.kind === "zone" && selected.points.length < limits.points ? under(middles(selected.points)) : -1;
  if (cornered) select(cornered, under(cornered.points));
  else if (edge >= 0) {
    selected.points.splice(edge + 1, 0, point);
    select(selected, edge + 1);
  } else select(ordered.find((shape) => contains(shape, point, near)) || null);
  return selected && { begin: point, points: copyOf(selected.points), before, moved: !cornered && edge >= 0 };
}

function press(event) {
  if (event.button || !event.isPrimary) return;
  over.setPointerCapture(event.pointerId);
  pointer = positionOf(event);
  problem = "";
  if (tool === "move") drag = take(pointer, reach(event));
  else if (tool === "line" && !draft) {
    draft = { kind: "line", name: freeName("line"), points: [pointer], anchor: usualAnchor };
    drag = { begin: pointer };
  }
  render();
}

function glide(event) {
  if (!event.isPrimary) return;
  pointer = positionOf(event);
  if (tool === "move" && drag) {
    drag.moved = drag.moved || distance(drag.begin, pointer) > SLOP / 2;
    if (drag.moved && corner >= 0) selected.points[corner] = pointer;
    else if (drag.moved) selected.points = shifted(drag.points, pointer[0] - drag.begin[0], pointer[1] - drag.begin[1]);
  }
  draw();
}

function release(event) {
  if (event.button || !event.isPrimary) return;
  pointer = positionOf(event);
  if (tool === "move") {
    if (drag && drag.moved) remember(drag.before);
    problem = "";
  } else if (tool === "line" && draft) {
    if (!drag || distance(drag.begin, pointer) > SLOP) {
      draft.points = [draft.points[0], pointer];
      finish();
    }
  } else if (tool === "zone") addCorner(pointer, reach(event));
  drag = null;
  if (event.pointerType === "touch") pointer = null; // a finger is nowhere afterwards
  render();
}

function addCorner(point, near) {
  if (!draft) draft = { kind: "zone", name: freeName("zone"), points: [point], anchor: usualAnchor };
  else if (distance(draft.points[0], point) < near || distance(draft.points[draft.points.length - 1], point) < SNAP) finish();
  else if (!(problem = draft.points.length < limits.points ? edgeProblem(point, false) : `a zone has at most ${limits.points} corners`)) draft.points.push(point);
}

// --- drawing --------------------------------------------------------------------------------------------

function element(parent, name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return parent.appendChild(made);
}

function drawShape(shape, { open = false, wrong = false } = {}) {
  const active = shape === selected;
  const colour = wrong ? COLOURS.wrong : COLOURS[shape.kind];
  const places = shape.points.map(pixels), points = places.map((point) => point.join(",")).join(" ");
  const kind = open || shape.kind === "line" ? "polyline" : "polygon";
  element(over, kind, { points, class: "halo", "stroke-width": active ? 7 : 5 });
  element(over, kind, { points, class: "edge", stroke: colour, "stroke-width": active ? 3 : 2, fill: kind === "polygon" ? colour : "none", "fill-opacity": active ? 0.25 : 0.14 });
  if (shape.kind === "line" && places.length === 2) drawDirection(places, colour);
  if (active) {
    for (const [x, y] of shape.kind === "zone" && !open && tool === "move" ? middles(shape.points).map(pixels) : [])
      element(over, "circle", { cx: x, cy: y, r: 4, fill: "#fff", stroke: colour, "stroke-width": 1.5, "fill-opacity": 0.75 });
    places.forEach(([x, y], i) => element(over, "circle", { cx: x, cy: y, r: 6, fill: i === corner ? colour : "#fff", stroke: colour, "stroke-width": 2 }));
  }
  if (open) return;
  const [x, y] = [0, 1].map((k) => places.reduce((sum, place) => sum + place[k], 0) / places.length);
  element(over, "text", { x, y: shape.kind === "line" ? y - 9 : y + 4, "text-anchor": "middle", fill: colour }, shape.name);
}

/** The arrow of a line, and the names of its sides. */
function drawDirection([[ax, ay], [bx, by]], colour) {
  const length = Math.hypot(bx - ax, by - ay) || 1, [ux, uy] = [(bx - ax) / length, (by - ay) / length];
  const tip = [[bx, by], [bx - 14 * ux + 7 * uy, by - 14 * uy - 7 * ux], [bx - 14 * ux - 7 * uy, by - 14 * uy + 7 * ux]];
  element(over, "polygon", { points: tip.map((point) => point.join(",")).join(" "), fill: colour, stroke: "#fffc" });
  for (const [name, sign] of length > 40 ? [["left", 1], ["right", -1]] : []) {
    const [x, y] = [ax + 0.25 * (bx - ax) + sign * 27 * uy, ay + 0.25 * (by - ay) - sign * 18 * ux];
    element(over, "text", { x, y: y + 4, "text-anchor": "middle", fill: colour, "font-size": 11 }, name);
  }
}

function drawDraft() {
  const ahead = pointer && draft.points.length ? [...draft.points, pointer] : draft.points;
  const wrong = draft.kind === "zone" && pointer ? edgeProblem(pointer, false) : "";
  const closing = draft.points.length > 1 && pointer && distance(draft.points[0], pointer) < 11;
  drawShape({ ...draft, points: ahead }, { open: true, wrong: wrong && !closing });
  draft.points.map(pixels).forEach(([x, y], i) => element(over, "circle", { cx: x, cy: y, r: i ? 5 : 8, fill: "#fff", stroke: COLOURS[draft.kind], "stroke-width": 2 }));
  return closing ? "" : wrong;
}

const HINTS = {
  zone: () => (draft ? "Click the next corner. Close the zone at its first corner, by a double click or with Close zone." : "Click the corners of a zone in their order around, on the floor where objects are to stand."),
  line: () => (draft ? "Click where the line ends." : "Draw a line from its begin to its end. Objects cross it to its left or to its right, seen along the arrow."),
  move: () => (selected ? "Drag corners or the whole shape; the small circles make new corners." : "Click a zone or a line to move it."),
};

/** Draw the shapes, and say what to do or what is wrong. */
function draw() {
  over.replaceChildren();
  over.setAttribute("viewBox", `0 0 ${over.clientWidth || 1} ${over.clientHeight || 1}`);
  over.setAttribute("class", tool);
  for (const shape of shapes) if (shape !== selected) drawShape(shape, { wrong: problemOf(shape) });
  if (selected) drawShape(selected, { wrong: problemOf(selected) });
  const ahead = draft ? drawDraft() : "";
  const said = problem || ahead || (selected && problemOf(selected)) || "";
  byId("hint").textContent = said ? said[0].toUpperCase() + said.slice(1) + "." : HINTS[tool]();
  byId("hint").className = said ? "wrong" : "";
}

function render() {
  draw();
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === tool));
  byId("undo").disabled = !past.length && !draft;
  byId("redo").disabled = !future.length || !!draft;
  byId("delete").disabled = !selected;
  byId("close").hidden = !draft || draft.kind !== "zone";
  byId("cancel").hidden = !draft;
  byId("yaml").textContent = yaml();
  byId("none").hidden = shapes.length > 0;
  const items = shapes.map((shape) => rows.get(shape) || row(shape)), parent = byId("list");
  if (items.length !== parent.children.length || items.some((item, i) => item !== parent.children[i])) parent.replaceChildren(...items);
  for (const item of items) item.update();
}

const rows = new WeakMap(); // the row of each shape in the list

/** A row with the shape's name, anchor and buttons; its `update` shows the shape as it is. */
function row(shape) {
  const made = (parent, name, properties) => parent.appendChild(Object.assign(document.createElement(name), properties));
  const changing = (change) => (event) => { event.stopPropagation(); remember(); change(); render(); };
  const item = document.createElement("li"), top = made(item, "div", { className: "row" }), about = made(item, "div", { className: "about" });
  const name = made(top, "input", { ariaLabel: `Name of the ${shape.kind}`, autocomplete: "off", spellcheck: false });
  const anchor = made(top, "select", { ariaLabel: "Anchor", title: "The point of an object's box that counts" });
  for (const value of ["foot", "centre"]) made(anchor, "option", { value, textContent: value });
  const told = made(about, "span", {});
  if (shape.kind === "line") made(about, "button", { textContent: "Reverse", onclick: changing(() => shape.points.reverse()) });
  made(about, "button", { textContent: "Delete", onclick: changing(() => { shapes = shapes.filter((each) => each !== shape); select(null); }) });
  item.onclick = () => { if (selected !== shape) { select(shape); problem = ""; render(); } };
  name.oninput = () => { if (renamed !== shape) remember(); renamed = shape; shape.name = name.value; render(); };
  anchor.onchange = changing(() => { shape.anchor = anchor.value; });
  item.update = () => {
    const wrong = problemOf(shape), what = shape.kind === "zone" ? `zone, ${shape.points.length} corners` : "line";
    item.className = shape === selected ? "selected" : "";
    item.style.setProperty("--colour", wrong ? COLOURS.wrong : COLOURS[shape.kind]);
    if (name.value !== shape.name) name.value = shape.name;
    anchor.value = shape.anchor;
    told.className = wrong ? "wrong" : "";
    told.textContent = wrong ? `${what}: ${wrong}` : what;
  };
  rows.set(shape, item);
  return item;
}

// --- buttons and keys -----------------------------------------------------------------------------------

function choose(name) {
  tool = name;
  draft = null;
  problem = "";
  if (name !== "move") select(null);
}

const ACTIONS = {
  undo: () => travel(past, future),
  redo: () => travel(future, past),
  delete: remove,
  close: () => draft && finish(),
  cancel: () => { draft = null; },
};

function act(action) {
  problem = "";
  action();
  render();
}

function key(event) {
  if (/^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  const letter = event.key.toLowerCase(), control = event.ctrlKey || event.metaKey;
  const arrow = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] }[letter];
  let action = null;
  if (control && (letter === "y" || (letter === "z" && event.shiftKey))) action = ACTIONS.redo;
  else if (control) action = letter === "z" ? ACTIONS.undo : null;
  else if (arrow && selected) action = () => nudge(...arrow.map((each) => each * (event.shiftKey ? LARGE_STEP : STEP)));
  else if (event.target.tagName !== "BUTTON" && letter === "enter") action = ACTIONS.close;
  else action = { delete: remove, backspace: remove, escape: ACTIONS.cancel, z: () => choose("zone"), l: () => choose("line"), m: () => choose("move") }[letter];
  if (!action) return;
  event.preventDefault();
  act(action);
}

function nudge(dx, dy) {
  remember();
  if (corner >= 0) selected.points[corner] = [rounded(inside(selected.points[corner][0] + dx)), rounded(inside(selected.points[corner][1] + dy))];
  else selected.points = shifted(selected.points, dx, dy);
}

function told(text) {
  saved = yaml();
  byId("done").textContent = text;
  setTimeout(() => { byId("done").textContent = ""; }, 2500);
}

async function copy() {
  try {
    await navigator.clipboard.writeText(yaml());
  } catch { // not allowed here: as a selection
    getSelection().selectAllChildren(byId("yaml"));
    if (!document.execCommand("copy")) return told("Selected: press Ctrl+C");
  }
  told("Copied");
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([yaml()], { type: "application/yaml" }));
  link.download = "rules.yaml";
  link.click();
  URL.revokeObjectURL(link.href);
  told("Downloaded");
}

for (const button of document.querySelectorAll("[data-tool]")) button.onclick = () => act(() => choose(button.dataset.tool));
for (const [id, action] of Object.entries(ACTIONS)) byId(id).onclick = () => act(action);
byId("copy").onclick = copy;
byId("download").onclick = download;
over.addEventListener("pointerdown", press);
over.addEventListener("pointermove", glide);
over.addEventListener("pointerup", release);
over.addEventListener("pointercancel", () => act(() => { if (drag && drag.moved) { shapes = drag.before; select(null); } drag = pointer = null; }));
over.addEventListener("pointerleave", () => { if (!drag) { pointer = null; draw(); } });
addEventListener("keydown", key);
addEventListener("beforeunload", (event) => { if (past.length && yaml() !== saved) event.preventDefault(); });
new ResizeObserver(draw).observe(over);
render();
