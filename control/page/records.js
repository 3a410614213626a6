// Search in the record of all sidecars.

import { get } from "./api.js";
import { COLUMNS, shown } from "./calls.js";
import { el, put } from "./dom.js";
import { Split, field, unable } from "./panes.js";
import { Table } from "./table.js";

export const records = { id: "records", title: "Record", key: "r", open };

const DECISIONS = ["", "allow", "allow_with_constraints", "require_approval", "throttle", "deny"];
const PHASES = ["", "intent", "outcome", "decision", "control"];
const PAGE = 200;

const choice = (text, name, values) =>
  el("label", {}, text, el("select", { name }, values.map((value) => el("option", { value }, value || "any"))));

function open(root, { argument }) {
  let entries = [];
  let next = null;
  let asked = 0;
  const table = new Table({
    name: "Records", columns: [["Phase", ({ record }) => record.phase, "mono"], ...COLUMNS], id: ({ sidecar, position }) => `${sidecar} ${position}`,
    open: (entry) => split.show(entry.record.call ? "Call" : "Record", ...shown(entry)), empty: "No record fits.",
  });
  const more = el("button", { type: "button", hidden: true, onclick: () => load(next) }, "Older ones");
  const form = el("form", { class: "filters", onsubmit: (event) => { event.preventDefault(); load(null); } },
    field("Agent", { name: "agent", class: "search" }), choice("Decision", "decision", DECISIONS), field("Rule", { name: "rule" }), field("Topic", { name: "topic" }),
    field("Call", { name: "call" }), field("Tenant", { name: "tenant" }), choice("Phase", "phase", PHASES),
    field("From", { name: "from", type: "datetime-local", step: 1 }), field("To", { name: "to", type: "datetime-local", step: 1 }),
    el("button", { type: "submit", class: "primary" }, "Search"));
  const split = new Split([form, table.element, more]);
  put(root, split.element);
  for (const [name, value] of new URLSearchParams(argument ?? "")) {
    if (form.elements[name]) form.elements[name].value = value;
  }

  async function load(after) {
    const turn = ++asked;
    const query = Object.fromEntries(new FormData(form));
    for (const name of ["from", "to"]) if (query[name]) query[name] = new Date(query[name]).toISOString();
    try {
      const page = await get("/v1/records", { ...query, after, limit: PAGE });
      if (turn !== asked) return;
      entries = after ? [...entries, ...page.items] : page.items;
      next = page.next ?? null;
      table.show(entries);
      more.hidden = next === null;
    } catch (error) {
      if (error.missing) put(root, unable(error));
      else { table.show([]); put(table.empty, unable(error)); }
    }
  }

  load(null);
  return { key: (event) => (event.key === "Escape" ? split.close() : table.key(event)) };
}
