// The page: who is signed in, which view is shown, and the keys.

import { all, ask, every, get, whenLost } from "./api.js";
import { el, label, put, say } from "./dom.js";
import { question } from "./panes.js";
import { signIn } from "./sign.js";
import { live } from "./live.js";
import { agents } from "./agents.js";
import { budgets } from "./budgets.js";
import { approvals } from "./approvals.js";
import { records } from "./records.js";
import { policy } from "./policy.js";
import { breakers } from "./breakers.js";
import { kills } from "./kills.js";
import { workflows } from "./workflows.js";

const VIEWS = [live, agents, budgets, approvals, records, policy, breakers, kills, workflows];
const place = (id) => document.getElementById(id);
let session = null;
let shown = null;
let prefix = false;
let watches = [];

function show(view, argument) {
  shown?.view.leave?.();
  shown?.handle.stop?.();
  document.title = `${view.title} · Sideguard`;
  for (const tab of place("tabs").children) {
    const own = tab.dataset.id === view.id;
    tab.setAttribute("aria-selected", own);
    tab.setAttribute("tabindex", own ? "0" : "-1");
  }
  const root = el("section", { class: `view ${view.id}` });
  put(place("view"), root);
  place("view").setAttribute("aria-label", view.title);
  const wanted = `#${view.id}${argument ? `/${encodeURIComponent(argument)}` : ""}`;
  if (location.hash !== wanted) history.pushState(null, "", wanted);
  shown = { view, handle: view.open(root, { session, argument, go }) ?? {} };
}

// Goes to a view by its name, to one thing of it if there is an argument.
function go(id, argument) {
  show(VIEWS.find((view) => view.id === id) ?? live, argument);
}

function follow() {
  const [id, argument] = location.hash.slice(1).split("/");
  go(id, argument ? decodeURIComponent(argument) : "");
}

function tabs() {
  put(place("tabs"), VIEWS.map((view, index) => {
    const tab = el("button", { type: "button", role: "tab", "aria-controls": "view", title: `${view.title}: ${index + 1}, or g ${view.key}`, onclick: () => go(view.id) },
      el("kbd", { "aria-hidden": "true" }, String(index + 1)), view.title);
    tab.dataset.id = view.id;
    return tab;
  }));
  place("tabs").addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const all = [...place("tabs").children];
    all[(all.indexOf(document.activeElement) + by + all.length) % all.length].focus();
    event.stopPropagation();
  });
}

function help() {
  const keys = [
    ...VIEWS.map((view, index) => [`${index + 1} or g ${view.key}`, view.title]),
    ["j k ↓ ↑", "next, previous"], ["Enter", "open"], ["Esc", "close"], ["/", "search or filter"], ["p", "pause live calls"],
    ["a d", "approve, deny"], ["t", "light or dark"], ["?", "these keys"],
  ];
  const list = el("dl", { class: "facts keys" }, keys.map(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)]));
  question({ title: "Keys", text: list, yes: "Close", only: true });
}

function theme(next) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  const wanted = next ?? (now === "dark" ? "light" : "dark");
  document.documentElement.dataset.theme = wanted;
  localStorage.setItem("theme", wanted);
}

function keydown(event) {
  const writing = event.target.closest?.("input, textarea, select, dialog");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (writing) {
    if (event.key === "Escape" && !event.target.closest("dialog")) event.target.blur();
    return;
  }
  if (!session) return;
  const { key } = event;
  const digit = VIEWS[Number(key) - 1];
  const named = prefix && VIEWS.find((view) => view.key === key);
  prefix = false;
  if (named) show(named);
  else if (key === "g") prefix = true;
  else if (digit) show(digit);
  else if (key === "?") help();
  else if (key === "t") theme();
  else if (key === "/" && document.querySelector("#view .search")) document.querySelector("#view .search").focus();
  else if (shown?.handle.key?.(event)) { /* it was the view's */ }
  else if (key === "Enter" || key === " ") return;
  else return;
  event.preventDefault();
}

async function begin() {
  try {
    session = await ask("GET", "/session");
  } catch {
    return enter();
  }
  place("bar").hidden = false;
  put(place("who"), el("b", {}, session.name), ` ${session.role} · ${session.tenant ?? "all tenants"}`);
  follow();
  watches = [
    every(5, () => get("/v1/approvals", { state: "pending", limit: 200 }), (found) => badge("approvals", found?.items.length, "pending")),
    every(5, () => all("/v1/kills"), (found) => badge("kills", found?.length, "deny")),
  ];
}

// How many things of a view want to be looked at.
function badge(id, number, kind) {
  const tab = [...place("tabs").children].find((one) => one.dataset.id === id);
  tab.querySelector(".badge")?.remove();
  if (!number) return;
  const shown = label(String(number), kind);
  shown.classList.add("badge");
  tab.append(shown);
}

async function enter() {
  session = null;
  watches.forEach((watch) => watch.stop());
  shown?.handle.stop?.();
  shown = null;
  place("bar").hidden = true;
  document.title = "Sign in · Sideguard";
  await signIn(place("view"));
  await begin();
}

const kept = localStorage.getItem("theme");
if (kept === "light" || kept === "dark") theme(kept);
tabs();
place("theme").addEventListener("click", () => theme());
place("help").addEventListener("click", help);
place("out").addEventListener("click", async () => {
  await ask("DELETE", "/session").catch(() => {});
  say("Signed out");
  enter();
});
addEventListener("keydown", keydown);
addEventListener("popstate", () => session && follow());
whenLost(() => session && enter());
begin();
