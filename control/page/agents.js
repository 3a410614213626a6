// Sidecars, and how each stands to the generation in force.

import { all, every } from "./api.js";
import { ago, count, el, facts, label, put } from "./dom.js";
import { Split, unable } from "./panes.js";
import { Table } from "./table.js";

export const agents = { id: "agents", title: "Agents", key: "a", open };

const COLUMNS = [
  ["Agent", (row) => row.agents.join(", ") || "–", "mono name"],
  ["Tenant", (row) => row.tenant, "mono"],
  ["Standing", (row) => label(row.standing)],
  ["Generation", (row) => row.generation, "number"],
  ["Ready", (row) => label(row.ready ? "ready" : "not ready", row.ready ? "current" : "refused")],
  ["Calls", (row) => count(row.calls), "number"],
  ["Denied", (row) => count(row.denied), "number"],
  ["Breakers", (row) => (row.breakers ?? []).join(", "), "mono wide less"],
  ["Seen", (row) => ago(row.seen), "number"],
  ["Version", (row) => row.version, "mono less"],
  ["Sidecar", (row) => row.id, "mono name less"],
];

function open(root, { go }) {
  const tally = el("p", { class: "tally" });
  const table = new Table({ name: "Sidecars", columns: COLUMNS, id: (row) => `${row.tenant}/${row.id}`, open: detail, empty: "No sidecar has enrolled yet: `sideguard token` makes a token for one." });
  let rows = [];
  const search = el("input", { class: "search", type: "search", placeholder: "Filter", "aria-label": "Filter", oninput: paint });
  const split = new Split([el("div", { class: "tools" }, search, tally), table.element]);
  put(root, split.element);

  function detail(row) {
    split.show(row.agents.join(", ") || row.id,
      facts([
        ["Standing", label(row.standing)], ["Refused", row.refused && `generation ${row.refused.generation}: ${row.refused.reason}`],
        ["Generation in force", row.generation], ["Policy digest", row.digest], ["Tenant", row.tenant], ["Agents", row.agents.join(", ")],
        ["Calls", count(row.calls)], ["Denied", count(row.denied)], ["Breakers", (row.breakers ?? []).join("\n")], ["Seen", row.seen],
        ["Version", row.version], ["Sidecar", row.id],
      ]),
      el("div", { class: "buttons" }, row.agents.map((agent) => [
        el("button", { type: "button", onclick: () => go("records", `agent=${agent}`) }, `Record of ${agent}`),
        el("button", { type: "button", class: "danger", onclick: () => go("kills", `agent/${row.tenant}/${agent}`) }, `Stop ${agent}…`),
      ]).flat()));
  }

  function paint() {
    const word = search.value.toLowerCase();
    table.show(rows.filter((row) => [...row.agents, row.tenant, row.id, row.standing, row.version].join(" ").toLowerCase().includes(word)));
    const by = (standing) => rows.filter((row) => row.standing === standing).length;
    put(tally, ["current", "stale", "refused", "lost"].map((standing) => el("span", {}, label(standing), ` ${by(standing)} `)));
  }

  const turns = every(2, () => all("/v1/sidecars"), (found, error) => {
    if (error) return error.status ? put(root, unable(error)) : undefined;
    rows = found;
    paint();
  });
  return { stop: turns.stop, key: (event) => (event.key === "Escape" ? split.close() : table.key(event)) };
}
