// Breakers that are not healthy, by sidecar.

import { all, every } from "./api.js";
import { ago, label, put } from "./dom.js";
import { unable } from "./panes.js";
import { Table } from "./table.js";

export const breakers = { id: "breakers", title: "Breakers", key: "c", open };

const COLUMNS = [
  ["State", (row) => label(row.state)], ["Breaker", (row) => row.name, "mono wide"], ["Agents", (row) => row.agents.join(", "), "mono name"],
  ["Tenant", (row) => row.tenant, "mono"], ["Seen", (row) => ago(row.seen), "number"], ["Sidecar", (row) => row.sidecar, "mono name"],
];

// `name: state`, as sidecars tell them; a name may have colons of its own.
function read(text) {
  const at = text.lastIndexOf(": ");
  return at < 0 ? { name: text, state: "tripped" } : { name: text.slice(0, at), state: text.slice(at + 2) };
}

function open(root, { go }) {
  const table = new Table({ name: "Breakers", columns: COLUMNS, id: (row) => `${row.tenant} ${row.sidecar} ${row.name}`, open: () => go("agents"), empty: "Every breaker is healthy." });
  put(root, table.element);
  const turns = every(2, () => all("/v1/sidecars"), (found, error) => {
    if (error) return error.status ? put(root, unable(error)) : undefined;
    table.show(found.flatMap((one) => (one.breakers ?? []).map((text) => ({ ...read(text), sidecar: one.id, tenant: one.tenant, agents: one.agents, seen: one.seen }))));
  });
  return { stop: turns.stop, key: (event) => table.key(event) };
}
