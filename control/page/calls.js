// What records say of a call, for rows and for the pane. An entry is a sidecar's record with where it is kept.

import { get } from "./api.js";
import { clock, count, dollars, el, facts, label, millis, moment, pretty, put, when } from "./dom.js";

export const target = ({ target = {}, topic }) =>
  target.tool || target.model || [target.method, `${target.host ?? ""}${target.path ?? ""}`].filter(Boolean).join(" ") || topic || "";

export const tokens = ({ usage }) =>
  usage ? count((usage.input ?? 0) + (usage.output ?? 0)) : "";

const usage = ({ usage }) =>
  Object.entries(usage ?? {}).filter(([, number]) => number).map(([name, number]) => `${count(number)} ${name}`).join(", ");

export const decision = (record) =>
  label(record.decision ?? record.code ?? record.phase, record.decision ?? "control");

// Columns of every table of records.
export const COLUMNS = [
  ["Time", ({ record }) => el("time", { datetime: record.time, title: moment(record.time) }, when(record.time)), "mono"],
  ["Decision", ({ record }) => decision(record)],
  ["Agent", ({ record }) => `${record.tenant}/${record.agent}`, "mono name"],
  ["Target", ({ record }) => target(record), "mono wide"],
  ["Rule", ({ record }) => record.rule, "mono name"],
  ["Status", ({ record }) => record.status ?? "", "number"],
  ["Tokens", ({ record }) => tokens(record), "number less"],
  ["Cost", ({ record }) => dollars(record.cost_usd), "number less"],
  ["Latency", ({ record }) => millis(record.latency_us), "number less"],
];

// Whether a filter's words all stand somewhere in a record.
export function fits(entry, words) {
  if (words.length === 0) return true;
  const { record } = entry;
  const text = [record.decision, record.code, record.rule, record.tenant, record.agent, record.topic, record.reason, target(record),
    record.target?.host, record.point, record.call].join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

// Everything about a record, and the other records of its call.
export function shown({ sidecar, position, record }) {
  const t = record.target ?? {};
  const rest = el("section", {}, el("p", { class: "hint" }, "…"));
  related(record, rest);
  return [
    facts([
      ["Decision", decision(record)], ["Reason", record.reason], ["Rule", record.rule], ["Mode", record.mode],
      ["Agent", `${record.tenant}/${record.agent}`], ["Chain", record.chain?.join(" → ")], ["Known by", record.correlation],
      ["Link", record.link], ["Topic", record.topic], ["Point", record.point],
      ["Verb", record.verb], ["Risk", record.risk_tags?.join(", ")], ["Tool", t.tool], ["Model", t.model],
      ["Request", [t.method, `${t.host ?? ""}${t.path ?? ""}`].filter(Boolean).join(" ")], ["Status", record.status],
      ["Latency", millis(record.latency_us)], ["Tokens", usage(record)], ["Cost", dollars(record.cost_usd)],
      ["Time", record.time], ["Phase", record.phase], ["Call", record.call], ["Session", record.session], ["Trace", record.trace_id],
      ["Kept", `${sidecar} #${position}`],
    ]),
    rest,
    el("details", {}, el("summary", {}, "The whole record"), el("pre", {}, pretty(record))),
  ];
}

async function related(record, place) {
  if (!record.call) return put(place);
  try {
    const { items } = await get("/v1/records", { call: record.call, limit: 50 });
    if (items.length === 0) return put(place);
    put(place, el("h3", {}, "All of this call"), el("ol", { class: "phases" }, items.reverse().map(({ record: one }) =>
      el("li", {}, el("span", { class: "mono" }, clock(one.time)), " ", el("b", {}, one.phase), " ", decision(one), " ",
        [one.point, one.rule, one.status, millis(one.latency_us)].filter(Boolean).join(" · ")))));
  } catch {
    put(place);
  }
}
