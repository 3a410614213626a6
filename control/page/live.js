// Live calls: each as it is judged, completed when its outcome comes.

import { get } from "./api.js";
import { COLUMNS, fits, shown } from "./calls.js";
import { count, el, put } from "./dom.js";
import { Split, unable } from "./panes.js";
import { Table } from "./table.js";

// Rows that are kept; older ones are for the record search.
const MOST = 1000;
// Pauses between two paintings, in milliseconds: a busy fleet is not to be painted record by record.
const PAINT = 200;

export const live = { id: "live", title: "Live calls", key: "l", open };

function open(root) {
  // Newest first; an outcome takes the place of the intent of its call.
  let entries = [];
  let seen = 0;
  let missed = 0;
  let again = null;
  let paused = false;
  let words = [];
  let timer = null;
  let source = null;
  const table = new Table({
    name: "Live calls", columns: COLUMNS, id: ({ sidecar, position, record }) => `${sidecar} ${record.call || position} ${record.point ?? ""}`,
    open: (entry) => split.show("Call", ...shown(entry)), empty: "No calls yet. What agents do from now on appears here.",
  });
  const state = el("span", { class: "state", role: "status" }, "connecting");
  const tally = el("span", { class: "hint" });
  const pause = el("button", { type: "button", "aria-pressed": "false", title: "p", onclick: toggle }, "Pause");
  const search = el("input", {
    class: "search", type: "search", placeholder: "Filter: deny reader gpt-4o …", "aria-label": "Filter", spellcheck: "false",
    oninput: () => { words = search.value.toLowerCase().split(/\s+/).filter(Boolean); paint(); },
  });
  const split = new Split([el("div", { class: "tools" }, search, pause, state, tally), table.element]);
  put(root, split.element);

  function toggle() {
    paused = !paused;
    pause.textContent = paused ? "Go on" : "Pause";
    pause.setAttribute("aria-pressed", paused);
    paint();
  }

  function paint() {
    timer = null;
    if (!paused || words.length) table.show(entries.filter((entry) => fits(entry, words)));
    tally.textContent = `${count(seen)} seen, ${count(entries.length)} kept${missed ? `, ${count(missed)} passed by: the record has them` : ""}`;
  }

  function soon() {
    if (timer === null && !paused) timer = setTimeout(paint, PAINT);
  }

  function take(entry) {
    if (!entry?.record || entry.record.phase === "control") return;
    seen += 1;
    const id = table.id(entry);
    const at = entry.record.phase === "outcome" ? entries.findIndex((old) => table.id(old) === id) : -1;
    if (at >= 0) {
      const before = entries[at].record;
      // The outcome says what came of it, the intent what was decided.
      const kept = { decision: before.decision, rule: before.rule, reason: before.reason };
      for (const name of Object.keys(kept)) kept[name] = entry.record[name] || kept[name];
      entries[at] = { ...entry, record: { ...before, ...entry.record, ...kept, time: before.time } };
    } else {
      entries.unshift(entry);
      if (entries.length > MOST) entries.length = MOST;
    }
    soon();
  }

  async function begin() {
    try {
      const page = await get("/v1/records", { limit: 200 });
      page.items.reverse().forEach(take);
    } catch (error) {
      return put(root, unable(error));
    }
    listen();
  }

  function listen() {
    source = new EventSource("/v1/records/stream");
    source.onopen = () => { state.textContent = "live"; state.className = "state good"; };
    source.onerror = () => {
      state.textContent = "reconnecting";
      state.className = "state bad";
      // The browser gives up when the answer is a refusal: the session may have ended.
      if (source.readyState === 2) again = setTimeout(() => get("/v1/kills").catch(() => {}).then(() => again && listen()), 3000);
    };
    source.onmessage = ({ data }) => take(JSON.parse(data));
    source.addEventListener?.("missed", ({ data }) => { missed += Number(data) || 0; soon(); });
  }

  begin();
  return {
    stop() { source?.close(); clearTimeout(timer); clearTimeout(again); again = null; },
    key(event) {
      if (event.key === "p") toggle();
      else if (event.key === "Escape") return split.close();
      else return table.key(event);
      return true;
    },
  };
}
