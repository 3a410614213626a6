// Runs of workflows: a list, and one of them as a graph with its timeline.

import { ask, every, get } from "./api.js";
import { ago, el, facts, label, put, when } from "./dom.js";
import { graph, kind } from "./graph.js";
import { Split, attempt, field, question, unable } from "./panes.js";
import { Table } from "./table.js";

export const workflows = { id: "workflows", title: "Workflows", key: "w", open };

const OVER = ["succeeded", "failed", "cancelled", "compensated"];
const STATES = ["", "running", "waiting", "stopping", "compensating", ...OVER];

function took(from, to) {
  if (!from || !to) return "";
  const seconds = (new Date(to) - new Date(from)) / 1000;
  return seconds < 100 ? `${seconds.toFixed(1)} s` : seconds < 6000 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

const COLUMNS = [
  ["State", (row) => label(row.state)],
  ["Workflow", (row) => `${row.tenant}/${row.workflow}`, "mono name"],
  ["Run", (row) => row.id, "mono name"],
  ["Steps", (row) => `${row.over} of ${row.steps}`, "number"],
  ["Error", (row) => row.error, "wide"],
  ["Started", (row) => ago(row.created), "number"],
  ["Took", (row) => took(row.created, row.ended), "number"],
];

// What stands in a step's part of the pane.
function step(run, id, go) {
  const own = run.steps.find((one) => one.id === id);
  const spec = run.spec.steps.find((one) => one.id === id);
  const undo = (run.undo ?? []).filter((one) => one.step === id);
  const works = own.works ?? [];
  const single = works.length === 1 && !spec.forEach ? works[0] : null;
  const link = (approval) => el("a", { href: `#approvals/${approval}`, onclick: (event) => { event.preventDefault(); go("approvals", approval); } }, approval);
  const line = (work, at) => el("tr", {}, el("td", { class: "number" }, String(at)), el("td", {}, label(work.state)), el("td", { class: "number" }, String(work.attempt)),
    el("td", { class: "mono name" }, work.job ?? work.approval ?? ""), el("td", { class: "wide" }, work.error ?? ""));
  const table = (name, rows) => el("div", { class: "table" }, el("table", { "aria-label": name },
    el("thead", {}, el("tr", {}, ["Item", "State", "Tries", "Job", "Error"].map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, rows)));
  return el("section", { class: "step", "aria-label": `Step ${id}` },
    el("h3", {}, `${id} · ${kind(spec)}`),
    facts([["State", label(own.state)], ["Why", own.error], ["Started", when(own.started ?? "")], ["Took", took(own.started, own.ended)], ["Tries", single?.attempt],
      ["Job", single?.job], ["Approval", single?.approval && link(single.approval)], ["Until", single?.state === "waiting" ? when(single.due) : ""],
      ["Needs", (spec.needs ?? []).join(", ")], ["If", spec.if], ["Result", own.result]]),
    spec.forEach && works.length > 0 && table("Items", works.slice(0, 200).map(line)),
    works.length > 200 && el("p", { class: "hint" }, `and ${works.length - 200} more`),
    undo.length > 0 && [el("h3", {}, "Undone"), table("Undone", undo.map((one) => line(one.work, one.item ?? 0)))]);
}

function timeline(run) {
  const line = (one) => el("li", {}, el("time", { datetime: one.time, class: "mono" }, when(one.time)), " ",
    one.step && el("b", {}, one.step + (one.item === undefined ? "" : `[${one.item}]`)), " ", one.what, one.detail && el("span", { class: "hint" }, ` ${one.detail}`));
  const lines = (run.timeline ?? []).map(line);
  if (run.leftOut) lines.splice(lines.length / 2, 0, el("li", { class: "hint" }, `${run.leftOut} left out`));
  return el("ol", { class: "timeline" }, lines);
}

function open(root, { session, argument, go }) {
  const may = session.role === "operator";
  let shown = null;
  let chosen = null;
  let said = "";
  const table = new Table({ name: "Runs", columns: COLUMNS, id: (row) => row.id, open: (row) => { chosen = null; said = ""; detail(row.id); }, empty: "No runs. `sideguard workflow run NAME` starts one." });
  const state = el("select", { "aria-label": "State", onchange: () => turns.now() }, STATES.map((name) => el("option", { value: name }, name || "any")));
  const split = new Split([el("div", { class: "tools" }, el("label", {}, "State ", state)), table.element]);
  put(root, split.element);

  async function detail(id) {
    shown = id;
    let run;
    try { run = await get(`/v1/runs/${encodeURIComponent(id)}`); } catch (error) { return split.show("Run", unable(error)); }
    if (shown !== id) return;
    paint(run);
  }

  function paint(run) {
    // What says the same as before stays, so that nothing loses the focus.
    const now = JSON.stringify([run, chosen]);
    if (now === said) return;
    said = now;
    const focus = document.activeElement?.closest?.(".graph .node")?.getAttribute("aria-label")?.split(":")[0];
    const top = split.pane.scrollTop;
    const failed = run.steps.find((one) => one.state === "failed") ?? run.steps.find((one) => ["running", "waiting"].includes(one.state));
    const own = chosen ?? failed?.id ?? run.steps[0]?.id;
    const over = OVER.includes(run.state);
    split.show(run.workflow,
      facts([["State", label(run.state)], ["Error", run.error], ["Run", run.id], ["Tenant", run.tenant], ["Started", `${when(run.created)} by ${run.by}`], ["Took", took(run.created, run.ended)],
        ["Rerun of", run.rerunOf]]),
      may && el("div", { class: "buttons" },
        !over && el("button", { type: "button", class: "danger", onclick: () => cancel(run) }, "Cancel…"),
        over && el("button", { type: "button", onclick: () => again(run, own) }, "Run again…")),
      graph(run, own, (id) => { chosen = id; paint(run); }),
      own && step(run, own, go),
      el("h3", {}, "Input"), el("pre", {}, JSON.stringify(run.input ?? null, null, 2)),
      run.output !== undefined && run.output !== null && [el("h3", {}, "Output"), el("pre", {}, JSON.stringify(run.output, null, 2))],
      el("h3", {}, "Timeline"), timeline(run));
    split.pane.scrollTop = top;
    if (focus) [...split.pane.querySelectorAll(".graph .node")].find((node) => node.getAttribute("aria-label").startsWith(`${focus}:`))?.focus({ preventScroll: true });
  }

  async function cancel(run) {
    const compensate = el("input", { type: "checkbox", name: "compensate" });
    const values = await question({ title: `Cancel this run of ${run.workflow}?`, text: "Its jobs are taken back; nothing more starts.", danger: true, yes: "Cancel the run",
      fields: [el("label", { class: "check" }, compensate, " Undo what it has done"), field("Reason", { name: "reason", maxlength: 200 })] });
    if (!values) return;
    const body = { compensate: values.compensate === "on", ...(values.reason ? { reason: values.reason } : {}) };
    await attempt("Cancelled", () => ask("POST", `/v1/runs/${encodeURIComponent(run.id)}/cancel`, { body }));
    turns.now();
  }

  async function again(run, own) {
    const from = el("select", { name: "from" }, el("option", { value: "" }, "what has not succeeded"), run.steps.map((one) => el("option", { value: one.id }, one.id)));
    if (run.state === "succeeded" && own) from.value = own;
    const values = await question({ title: `Run ${run.workflow} again?`, text: "A new run keeps what this one has done well, and does the rest.", yes: "Run again", fields: [el("label", {}, "From", from)] });
    if (!values) return;
    const body = values.from ? { from: values.from } : {};
    const begun = await attempt("Started", () => ask("POST", `/v1/runs/${encodeURIComponent(run.id)}/rerun`, { body }));
    if (begun?.id) { chosen = null; detail(begun.id); }
    turns.now();
  }

  const turns = every(2, () => get("/v1/runs", { state: state.value, limit: 200 }), (found, error) => {
    if (error) return error.status ? put(root, unable(error)) : undefined;
    table.show(found.items);
    if (argument) detail(argument);
    else if (shown && !split.pane.hidden) detail(shown);
    argument = "";
  });
  return {
    stop: turns.stop,
    key(event) {
      if (event.key === "Escape") { shown = null; return split.close(); }
      return table.key(event);
    },
  };
}
