// Budgets: how much of each is spent and held, and how it went.

import { all, every, get } from "./api.js";
import { ago, el, facts, moment, put, svg } from "./dom.js";
import { Split, unable } from "./panes.js";
import { Table } from "./table.js";

export const budgets = { id: "budgets", title: "Budgets", key: "b", open };

const number = (text) => (Number.isFinite(Number(text)) ? Number(text) : 0);

const amount = (text, unit) => {
  const told = number(text).toLocaleString("en-US", { maximumFractionDigits: unit === "usd" ? 4 : 0 });
  return unit === "usd" ? `$${told}` : told;
};

// Parts of the limit, 0 to 1.
const share = (row) => {
  const limit = number(row.limit) || 1;
  const spent = Math.min(number(row.spent) / limit, 1);
  return { spent, held: Math.min(number(row.held) / limit, 1 - spent) };
};

const level = (row) => {
  const { spent, held } = share(row);
  return spent >= 1 ? "deny" : spent + held >= 0.8 ? "throttle" : "allow";
};

function bar(row) {
  const { spent, held } = share(row);
  const part = (x, width, kind) => svg("rect", { x: x * 100, y: 0, width: width * 100, height: 10, class: kind });
  const text = `${Math.round(spent * 100)} % spent, ${Math.round(held * 100)} % held`;
  return svg("svg", { class: `bar ${level(row)}`, viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": text },
    part(0, 1, "all"), part(0, spent, "spent"), part(spent, held, "held"));
}

// What was left at each point in time.
export function plot(points, unit) {
  const [W, H, L, B] = [560, 200, 64, 22];
  const times = points.map((point) => new Date(point.time).getTime());
  const left = points.map((point) => Math.max(number(point.limit) - number(point.spent), 0));
  const top = Math.max(...points.map((point) => number(point.limit)), 1e-9);
  const [from, to] = [times[0], Math.max(times[times.length - 1], times[0] + 1)];
  const x = (time) => L + ((time - from) / (to - from)) * (W - L - 8);
  const y = (value) => 8 + (1 - value / top) * (H - B - 8);
  const line = left.map((value, at) => `${at ? "L" : "M"}${x(times[at]).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const area = `${line}L${x(to).toFixed(1)} ${y(0)}L${x(from).toFixed(1)} ${y(0)}Z`;
  const text = (value, at, anchor, words) => svg("text", { x: value, y: at, "text-anchor": anchor }, words);
  const rules = [0, 0.5, 1].map((part) => [
    svg("line", { x1: L, x2: W - 8, y1: y(top * part), y2: y(top * part), class: "rule" }),
    text(L - 6, y(top * part) + 4, "end", amount(String(top * part), unit)),
  ]);
  return svg("svg", { class: "plot", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `What was left, from ${moment(from)} to ${moment(to)}` },
    rules, svg("path", { d: area, class: "area" }), svg("path", { d: line, class: "line" }),
    text(L, H - 4, "start", moment(from)), text(W - 8, H - 4, "end", moment(to)));
}

const COLUMNS = [
  ["Budget", (row) => row.budget, "mono name"],
  ["Tenant", (row) => row.tenant, "mono"],
  ["Account", (row) => row.key || "–", "mono name"],
  ["Spent", (row) => bar(row), "bars"],
  ["", (row) => `${Math.round(share(row).spent * 100)} %`, "number"],
  ["Spent", (row) => amount(row.spent, row.unit), "number"],
  ["Held", (row) => amount(row.held, row.unit), "number less"],
  ["Limit", (row) => amount(row.limit, row.unit), "number"],
  ["Unit", (row) => row.unit, "mono less"],
  ["Window", (row) => row.window ?? "", "mono less"],
  ["Resets", (row) => (row.resetAt ? ago(row.resetAt) : ""), "number less"],
  ["Alert at", (row) => (typeof row.alert === "number" ? `${Math.round(row.alert * 100)} %` : ""), "mono less"],
];

function open(root) {
  const table = new Table({ name: "Budgets", columns: COLUMNS, id: (row) => [row.tenant, row.budget, row.unit, row.window, row.key].join(" "), open: detail, empty: "No budget has an account yet." });
  const split = new Split(table.element);
  put(root, split.element);

  async function detail(row) {
    const place = el("div", {}, el("p", { class: "hint" }, "…"));
    split.show(row.budget,
      facts([["Account", row.key || "the whole scope"], ["Tenant", row.tenant], ["Spent", amount(row.spent, row.unit)], ["Held", amount(row.held, row.unit)],
        ["Limit", `${amount(row.limit, row.unit)} ${row.unit}`], ["Window", row.window], ["Resets", row.resetAt]]),
      el("h3", {}, "What was left"), place);
    try {
      const { points } = await get("/v1/budgets/history", { tenant: row.tenant, budget: row.budget, unit: row.unit, key: row.key });
      put(place, points.length > 1 ? plot(points, row.unit) : el("p", { class: "hint" }, "There are no samples yet: one is taken each minute."));
    } catch (error) {
      put(place, unable(error));
    }
  }

  const turns = every(3, () => all("/v1/budgets"), (found, error) => {
    if (error) return error.status ? put(root, unable(error)) : undefined;
    table.show(found);
  });
  return { stop: turns.stop, key: (event) => (event.key === "Escape" ? split.close() : table.key(event)) };
}
