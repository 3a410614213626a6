// The steps of a run as a graph: each step below all that it needs, lines from a step to what needs it.

import { el, svg } from "./dom.js";

const [WIDE, HIGH, GAP, RISE, EDGE] = [166, 42, 16, 34, 10];

// Which layer each step stands in: one below the lowest of those that it needs.
export function layers(steps) {
  const place = new Map(steps.map((step, at) => [step.id, at]));
  const depth = new Array(steps.length).fill(null);
  const of = (at, way) => {
    if (depth[at] !== null || way.has(at)) return depth[at] ?? 0;
    way.add(at);
    const above = (steps[at].needs ?? []).filter((id) => place.has(id)).map((id) => of(place.get(id), way) + 1);
    way.delete(at);
    depth[at] = Math.max(0, ...above);
    return depth[at];
  };
  const found = [];
  steps.forEach((step, at) => { (found[of(at, new Set())] ??= []).push(step.id); });
  return ordered(found.map((layer) => layer ?? []), steps);
}

// Steps stand below the middle of what they need, so that few lines cross.
function ordered(found, steps) {
  const needs = new Map(steps.map((step) => [step.id, step.needs ?? []]));
  const where = new Map();
  const middle = (id) => {
    const at = needs.get(id).map((need) => where.get(need)).filter((one) => one !== undefined);
    return at.length ? at.reduce((sum, one) => sum + one, 0) / at.length : 0;
  };
  return found.map((layer) => {
    const sorted = layer.map((id, at) => [middle(id), at, id]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, , id]) => id);
    sorted.forEach((id, at) => where.set(id, (at + 0.5) / sorted.length));
    return sorted;
  });
}

// What a step does, in a word.
export function kind(spec) {
  return ["job", "approval", "condition", "delay", "notify", "forEach"].find((one) => spec?.[one]) ?? "";
}

function words(step, spec) {
  const items = (step.works ?? []).length;
  const over = (step.works ?? []).filter((work) => !["pending", "running", "waiting"].includes(work.state)).length;
  const state = spec?.forEach && items ? `${step.state} ${over}/${items}` : step.state;
  return [step.id, `${kind(spec)} · ${state}`];
}

// The drawing. `choose` is given the id of a step that is clicked, or opened with Enter.
export function graph(run, chosen, choose) {
  const specs = new Map(run.spec.steps.map((spec) => [spec.id, spec]));
  const rows = layers(run.spec.steps);
  const most = Math.max(...rows.map((row) => row.length), 1);
  const width = most * WIDE + (most - 1) * GAP + 2 * EDGE;
  const height = rows.length * HIGH + (rows.length - 1) * RISE + 2 * EDGE;
  const at = new Map();
  rows.forEach((row, depth) => {
    const left = (width - (row.length * WIDE + (row.length - 1) * GAP)) / 2;
    row.forEach((id, column) => at.set(id, [left + column * (WIDE + GAP), EDGE + depth * (HIGH + RISE)]));
  });
  const lines = run.spec.steps.flatMap((spec) => (spec.needs ?? []).filter((need) => at.has(need)).map((need) => {
    const [[x1, y1], [x2, y2]] = [at.get(need), at.get(spec.id)];
    const [sx, sy, tx, ty] = [x1 + WIDE / 2, y1 + HIGH, x2 + WIDE / 2, y2];
    const bend = Math.max(RISE / 2, (ty - sy) / 2);
    return svg("path", { class: "edge", d: `M${sx} ${sy} C${sx} ${sy + bend} ${tx} ${ty - bend} ${tx} ${ty}` });
  }));
  const undone = new Set((run.undo ?? []).filter((undo) => undo.work.state === "succeeded").map((undo) => undo.step));
  const nodes = rows.flat().map((id) => {
    const step = run.steps.find((one) => one.id === id);
    const [x, y] = at.get(id);
    const [name, state] = words(step, specs.get(id));
    const fits = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
    const open = () => choose(id);
    return svg("g", {
      class: `node ${step.state}${id === chosen ? " chosen" : ""}`, transform: `translate(${x} ${y})`, tabindex: "0", role: "button",
      "aria-label": `${name}: ${state}${undone.has(id) ? ", undone" : ""}`, "aria-pressed": String(id === chosen), onclick: open,
      onkeydown: (event) => { if (event.key === "Enter" || event.key === " ") { open(); event.preventDefault(); event.stopPropagation(); } },
    },
    svg("title", {}, `${name}: ${state}`),
    svg("rect", { width: WIDE, height: HIGH, rx: 4 }),
    svg("text", { x: 10, y: 18, class: "id" }, fits(name, 21)),
    svg("text", { x: 10, y: 33 }, fits(state, 23)),
    undone.has(id) && svg("text", { x: WIDE - 10, y: 18, class: "undone", "text-anchor": "end" }, "↩"));
  });
  return el("div", { class: "graph", role: "group", "aria-label": "Steps" },
    svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height }, lines, nodes));
}
