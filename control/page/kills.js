// The kill switch: stops everything in a scope within a second.

import { all, ask, every } from "./api.js";
import { ago, el, moment, put } from "./dom.js";
import { attempt, field, question, unable } from "./panes.js";
import { Table } from "./table.js";

export const kills = { id: "kills", title: "Kill switch", key: "k", open };

// A scope as it is written.
const written = (scope) =>
  scope === "fleet" ? "fleet" : scope.tenant !== undefined ? `tenant/${scope.tenant}`
    : scope.delegation !== undefined ? `delegation/${scope.delegation.tenant}/${scope.delegation.id}` : `agent/${scope.agent.tenant}/${scope.agent.agent}`;

function open(root, { session, argument }) {
  const may = session.role === "operator";
  const columns = [
    ["Scope", (row) => written(row.scope), "mono name"], ["Reason", (row) => row.reason, "wide"], ["By", (row) => row.by, "mono"],
    ["Since", (row) => el("time", { datetime: row.time, title: moment(row.time) }, ago(row.time)), "number"],
    ["", (row) => may && el("button", { type: "button", onclick: () => release(written(row.scope)) }, "Let go on…")],
  ];
  const table = new Table({ name: "Kill switches that are on", columns, id: (row) => written(row.scope), open: () => {}, empty: "No kill switch is on." });
  const known = el("datalist", { id: "scopes" });
  const scope = el("input", { name: "scope", class: "search mono", list: "scopes", required: true, autocomplete: "off", spellcheck: "false", placeholder: "agent/TENANT/NAME, tenant/NAME or fleet", value: argument ?? "" });
  const form = el("form", { class: "stop", onsubmit: (event) => { event.preventDefault(); stop(scope.value.trim(), form.elements.reason.value); } },
    el("label", {}, "Scope", scope), known, field("Reason", { name: "reason", maxlength: 500 }), el("button", { type: "submit", class: "danger" }, "Stop…"));
  put(root, el("div", { class: "main" }, may && el("h2", {}, "Stop everything in a scope"), may && form, el("h2", {}, "On"), table.element));
  suggest();

  // The agents and tenants that are known.
  async function suggest() {
    const found = await all("/v1/sidecars").catch(() => []);
    const agents = found.flatMap((one) => one.agents.map((agent) => `agent/${one.tenant}/${agent}`));
    const scopes = new Set([...agents, ...found.map((one) => `tenant/${one.tenant}`), ...(session.tenant ? [] : ["fleet"])]);
    put(known, [...scopes].sort().map((one) => el("option", { value: one })));
  }

  async function stop(what, reason) {
    const values = await question({ title: `Stop ${what}?`, text: el("p", {}, "Every call in this scope is refused within a second, until it is let go on."), yes: "Stop", danger: true, typed: what });
    if (values && await attempt(`${what} is stopped`, () => ask("POST", "/v1/kills", { body: { scope: what, reason } }))) form.reset();
    turns.now();
  }

  async function release(what) {
    const values = await question({ title: `Let ${what} go on?`, text: el("p", {}, "Policy and budgets decide about its calls again."), yes: "Let go on" });
    if (values) await attempt(`${what} goes on`, () => ask("DELETE", "/v1/kills", { query: { scope: what } }));
    turns.now();
  }

  const turns = every(2, () => all("/v1/kills"), (found, error) => {
    if (error) return error.status ? put(root, unable(error)) : undefined;
    table.show(found);
  });
  return { stop: turns.stop, key: (event) => table.key(event) };
}
