// The desired state: its objects, its generations, and what changed from one to the next.

import { all, ask, get } from "./api.js";
import { lines } from "./diff.js";
import { ago, el, label, moment, put } from "./dom.js";
import { Split, attempt, question, unable } from "./panes.js";
import { Table } from "./table.js";

export const policy = { id: "policy", title: "Policy", key: "y", open };

const OBJECTS = [
  ["Kind", (row) => row.kind, "mono"], ["Tenant", (row) => row.tenant, "mono"], ["Name", (row) => row.name, "mono name"],
  ["Generation", (row) => row.generation, "number"],
  ["Labels", (row) => Object.entries(row.labels ?? {}).map(([key, value]) => `${key}=${value}`).join(" "), "mono wide"],
];

const GENERATIONS = [
  ["Number", (row) => row.number, "number"], ["When", (row) => el("time", { datetime: row.time, title: moment(row.time) }, ago(row.time)), "number"],
  ["By", (row) => row.by, "mono"], ["Verb", (row) => row.verb, "mono"], ["Objects", (row) => row.objects, "number"],
  ["Changes", (row) => (row.summary ?? []).join(", "), "mono wide"],
];

// A diff in colours, with signs before the lines.
function difference(change) {
  const signs = { same: " ", gone: "−", come: "+" };
  return el("section", {},
    el("h3", {}, label(change.action), ` ${change.kind.toLowerCase()}/${change.tenant}/${change.name}`),
    el("pre", { class: "diff" }, lines(change.before ?? "", change.after ?? "").map(([kind, text]) => el("span", { class: kind }, `${signs[kind]} ${text}\n`))));
}

function open(root, { session }) {
  const owner = session.role === "operator" && !session.tenant;
  let newest = 0;
  let on = null;
  const objects = new Table({ name: "Objects", columns: OBJECTS, id: (row) => `${row.tenant}/${row.kind}/${row.name}`, open: text, empty: "Nothing has been applied yet: `sideguard apply -f policies/`." });
  const generations = new Table({ name: "Generations", columns: GENERATIONS, id: (row) => row.number, open: changes, empty: "There is no generation yet." });
  const search = el("input", { class: "search", type: "search", placeholder: "Filter objects", "aria-label": "Filter objects", oninput: paint });
  let rows = [];
  const history = el("section", {}, generations.element);
  const split = new Split([
    el("div", { class: "tools" }, el("h2", {}, "Objects"), search), objects.element, el("div", { class: "tools" }, el("h2", {}, "Generations")), history,
  ]);
  put(root, split.element);
  for (const table of [objects, generations]) table.element.addEventListener("focusin", () => { on = table; });

  function paint() {
    const word = search.value.toLowerCase();
    objects.show(rows.filter((row) => `${row.kind} ${row.tenant} ${row.name}`.toLowerCase().includes(word)));
  }

  function text(row) {
    split.show(`${row.kind} ${row.tenant}/${row.name}`, el("p", { class: "hint" }, `In this form since generation ${row.generation}.`), el("pre", {}, row.text));
  }

  async function changes(row) {
    const place = el("div", {});
    const from = el("input", { type: "number", min: 0, max: newest, value: row.number - 1, "aria-label": "Compare with generation", onchange: () => compare() });
    split.show(`Generation ${row.number}`,
      el("p", { class: "tools" }, el("label", {}, "Compared with ", from),
        owner && row.number !== newest && el("button", { type: "button", class: "danger", onclick: () => rollback(row.number) }, "Put in force again…")), place);
    async function compare() {
      try {
        const { items } = await get(`/v1/generations/${row.number}/changes`, { from: from.value });
        put(place, items.length ? items.map(difference) : el("p", { class: "hint" }, "Nothing differs."));
      } catch (error) {
        put(place, unable(error));
      }
    }
    compare();
  }

  async function rollback(to) {
    const values = await question({ title: `Put generation ${to} in force again?`, text: el("p", {}, "Its objects become a new generation, for the whole fleet."), yes: "Put in force", danger: true, typed: String(to) });
    if (values && await attempt(`Generation ${to} is in force again`, () => ask("POST", "/v1/rollback", { body: { to } }))) load();
  }

  async function load() {
    try {
      rows = await all("/v1/objects");
      paint();
    } catch (error) {
      return put(root, unable(error));
    }
    try {
      const found = (await get("/v1/generations", { limit: 100 })).items;
      newest = found[0]?.number ?? 0;
      generations.show(found);
    } catch (error) {
      put(history, unable(error));
    }
  }

  load();
  return { key: (event) => (event.key === "Escape" ? split.close() : (on ?? objects).key(event)) };
}
