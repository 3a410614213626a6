// Calls that wait for a person, each with the exact request.

import { ask, every, get } from "./api.js";
import { ago, el, facts, label, pretty, put } from "./dom.js";
import { Split, attempt, field, question, unable } from "./panes.js";
import { Table } from "./table.js";

export const approvals = { id: "approvals", title: "Approvals", key: "p", open };

const what = (row) => row.tool || row.model || `${row.method} ${row.host}${row.path}`;

const COLUMNS = [
  ["State", (row) => label(row.state)],
  ["Agent", (row) => `${row.tenant}/${row.agent}`, "mono name"],
  ["Target", what, "mono wide"],
  ["Rule", (row) => row.rule, "mono name"],
  ["Asked", (row) => ago(row.created), "number"],
  ["Expires", (row) => ago(row.expires), "number"],
  ["Votes", (row) => `${(row.votes ?? []).filter((vote) => vote.verdict === "approve").length} of ${row.quorum ?? 1}`, "number"],
];

function request(row) {
  const start = `${row.method} ${row.scheme ? `${row.scheme}://` : ""}${row.host}${row.path}`;
  const headers = (row.headers ?? []).map(([name, value]) => `\n${name}: ${value}`).join("");
  const body = row.arguments ?? row.body;
  const has = row.constraints && Object.keys(row.constraints).length > 0;
  return el("section", { class: "request", "aria-label": "The request" }, el("pre", {}, start, headers),
    body !== null && body !== undefined && el("pre", {}, pretty(body)),
    has && [el("p", { class: "hint" }, "What policy changes in it before it leaves"), el("pre", {}, pretty(row.constraints))]);
}

function open(root, { session, argument }) {
  const may = session.role === "operator" || session.role === "approver";
  const table = new Table({ name: "Approvals", columns: COLUMNS, id: (row) => row.id, open: detail, empty: "Nothing waits for approval." });
  const state = el("select", { "aria-label": "State", onchange: () => turns.now() },
    ["pending", "approved", "denied", "expired", "consumed"].map((name) => el("option", { value: name }, name)));
  const split = new Split([el("div", { class: "tools" }, el("label", {}, "State ", state), may && el("span", { class: "hint" }, el("kbd", {}, "a"), " approve ", el("kbd", {}, "d"), " deny")), table.element]);
  put(root, split.element);

  // All of it: in the listing long arguments are cut.
  const whole = (row) => get(`/v1/approvals/${encodeURIComponent(row.id)}`);

  async function detail(listed) {
    let row;
    try { row = await whole(listed); } catch (error) { return split.show(what(listed), unable(error)); }
    const votes = (row.votes ?? []).map((vote) => `${vote.by}: ${vote.verdict}${vote.reason ? ` (${vote.reason})` : ""}`);
    split.show(what(row),
      facts([["State", label(row.state)], ["Why", row.reason], ["Rule", row.rule], ["Agent", `${row.tenant}/${row.agent}`], ["Chain", row.chain?.join(" → ")],
        ["Topic", row.topic], ["Point", row.point], ["Asked", row.created], ["Expires", row.expires], ["Quorum", row.quorum], ["Votes", votes.join("\n")], ["Id", row.id]]),
      el("h3", {}, "What goes out, byte for byte, if it is approved"), request(row),
      row.state === "pending" && may && el("div", { class: "buttons" },
        el("button", { type: "button", class: "primary", onclick: () => answer(row, "approve") }, "Approve…"),
        el("button", { type: "button", class: "danger", onclick: () => answer(row, "deny") }, "Deny…")));
  }

  async function answer(row, verdict) {
    if (!may || row?.state !== "pending") return;
    const seen = await attempt("", () => whole(row));
    if (!seen) return;
    const values = await question({
      title: verdict === "approve" ? "Approve this request?" : "Deny this request?", text: request(seen), danger: verdict === "deny",
      yes: verdict === "approve" ? "Approve" : "Deny", fields: [field("Reason", { name: "reason", maxlength: 500 })],
    });
    if (!values) return;
    const body = { verdict, ...(values.reason ? { reason: values.reason } : {}) };
    const told = verdict === "approve" ? "Approved" : "Denied";
    if (await attempt(told, () => ask("POST", `/v1/approvals/${encodeURIComponent(row.id)}`, { body }))) split.close();
    turns.now();
  }

  const turns = every(2, () => get("/v1/approvals", { state: state.value, limit: 200 }), (found, error) => {
    if (error) return error.status ? put(root, unable(error)) : undefined;
    table.show(found.items);
    const wanted = argument && found.items.find((row) => row.id === argument);
    argument = "";
    if (wanted) table.choose(wanted.id, true);
  });
  return {
    stop: turns.stop,
    key(event) {
      if (event.key === "a") answer(table.row, "approve");
      else if (event.key === "d") answer(table.row, "deny");
      else if (event.key === "Escape") return split.close();
      else return table.key(event);
      return true;
    },
  };
}
