// SPDX-License-Identifier: Apache-2.0
// Zones and lines as values: what is wrong with them, and their YAML. Points are normalized, [x, y].
// Uses `shapes`, `draft`, `limits` and `usualAnchor` of `draw.js`.

// --- what can be wrong: the checks of the package's rules/reader.py ------------------------------------

const same = (a, b) => a[0] === b[0] && a[1] === b[1];
const edgesOf = (points) => points.map((point, i) => [point, points[(i + 1) % points.length]]);
const side = (a, b, p) => (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0]);

function cross([a, b], [c, d]) {
  const sides = [side(a, b, c), side(a, b, d), side(c, d, a), side(c, d, b)];
  if (sides.every((each) => each === 0)) // on one line
    return [0, 1].every((k) => Math.max(Math.min(a[k], b[k]), Math.min(c[k], d[k])) <= Math.min(Math.max(a[k], b[k]), Math.max(c[k], d[k])));
  return sides[0] * sides[1] <= 0 && sides[2] * sides[3] <= 0;
}

function crossingEdges(points) {
  const edges = edgesOf(points);
  for (let i = 0; i < edges.length; i++)
    for (let j = i + 2; j < edges.length - (i === 0 ? 1 : 0); j++) if (cross(edges[i], edges[j])) return [i + 1, j + 1];
  return null;
}

function area(points) {
  return Math.abs(edgesOf(points).reduce((sum, [a, b]) => sum + a[0] * b[1] - b[0] * a[1], 0)) / 2;
}

function placeProblem(kind, points) {
  if (kind === "line")
    return Math.hypot(points[1][0] - points[0][0], points[1][1] - points[0][1]) < limits.length ? "this line is too short to have a direction" : "";
  if (points.length < 3) return `a zone has at least 3 corners, and this one has ${points.length}`;
  if (points.length > limits.points) return `a zone has at most ${limits.points} corners`;
  if (edgesOf(points).some(([a, b]) => same(a, b))) return "two corners that follow each other are the same";
  const crossed = crossingEdges(points);
  if (crossed) return `edges ${crossed[0]} and ${crossed[1]} cross`;
  return area(points) < limits.area ? "this zone is too small" : "";
}

function nameProblem(shape) {
  const length = [...shape.name].length;
  if (length < 1 || length > limits.name || !/^[\p{L}\p{M}\p{N}\p{P}\p{S} ]*$/u.test(shape.name)) return `a name is text of 1 to ${limits.name} characters`;
  return shapes.some((each) => each !== shape && each.kind === shape.kind && each.name === shape.name) ? `another ${shape.kind} has this name` : "";
}

const problemOf = (shape) => nameProblem(shape) || placeProblem(shape.kind, shape.points);

/** Why the next edge of the zone that is drawn, to `point`, cannot be; `closing`: to its first corner. */
function edgeProblem(point, closing) {
  const points = draft.points, last = points[points.length - 1];
  for (let i = closing ? 1 : 0; i < points.length - 2; i++)
    if (cross([last, point], [points[i], points[i + 1]])) return `this edge would cross edge ${i + 1}: go around in order`;
  return "";
}

// --- YAML -----------------------------------------------------------------------------------------------

/** A name as YAML: plain where that is safe, else in double quotes, of which JSON's are a part. */
function yamlName(name) {
  const plain = /^[A-Za-z_][\w-]*( [A-Za-z0-9_][\w-]*)*$/.test(name) && !/^(y|n|yes|no|on|off|true|false|null)$/i.test(name);
  return plain ? name : JSON.stringify(name);
}

function yamlPlace(shape) {
  const points = `[${shape.points.map((point) => `[${point.join(", ")}]`).join(", ")}]`;
  return shape.anchor === usualAnchor ? points : `{points: ${points}, anchor: ${shape.anchor}}`;
}

function yaml() {
  let text = usualAnchor === "foot" ? "" : `anchor: ${usualAnchor}\n`;
  for (const kind of ["zone", "line"]) {
    const entries = shapes.filter((shape) => shape.kind === kind);
    const good = entries.filter((shape) => !problemOf(shape));
    if (good.length) text += `${kind}s:\n` + good.map((shape) => `  ${yamlName(shape.name)}: ${yamlPlace(shape)}\n`).join("");
    for (const shape of entries.filter(problemOf)) text += `# ${kind} ${JSON.stringify(shape.name)} is left out: ${problemOf(shape)}\n`;
  }
  return /^(zones|lines):$/m.test(text) ? text : text + "zones: {}\n";
}
