// A table whose rows are chosen with j, k and the arrows and opened with Enter or a click.

import { el, put } from "./dom.js";

// `columns`: [heading, row => cell, class]. `id`: row => what it is known by. `open`: row => anything.
export class Table {
  constructor({ name, columns, id, open, empty = "Nothing here." }) {
    Object.assign(this, { columns, id, open, chosen: null, rows: [], lines: new Map() });
    this.body = el("tbody");
    this.empty = el("p", { class: "empty" }, empty);
    const heads = columns.map(([heading, , kind]) => el("th", { scope: "col", class: kind }, heading));
    this.element = el("div", { class: "table" },
      el("table", { "aria-label": name }, el("thead", {}, el("tr", {}, heads)), this.body), this.empty);
    this.body.addEventListener("click", (event) => {
      const line = event.target.closest("tr");
      if (line && !event.target.closest("button, a")) this.choose(line.dataset.id, true);
    });
    this.body.addEventListener("focusin", (event) => {
      const line = event.target.closest("tr");
      if (line && line.dataset.id !== this.chosen) this.choose(line.dataset.id);
    });
  }

  // One line of the table.
  line(row) {
    const id = String(this.id(row));
    const cells = this.columns.map(([, cell, kind]) => el("td", { class: kind }, cell(row) ?? ""));
    const line = el("tr", { tabindex: "-1" }, cells);
    line.dataset.id = id;
    if (id === this.chosen) this.mark(line, true);
    return line;
  }

  // Shows these rows. Lines that say the same as before stay, so that nothing flickers.
  show(rows) {
    this.rows = rows;
    const lines = new Map();
    const wanted = rows.map((row) => {
      const [id, said] = [String(this.id(row)), JSON.stringify(row)];
      const old = this.lines.get(id);
      const line = old && old.said === said ? old.line : this.line(row);
      lines.set(id, { line, said, row });
      return line;
    });
    const focused = this.body.contains(document.activeElement);
    this.lines = lines;
    put(this.body, wanted);
    if (this.chosen !== null && !lines.has(this.chosen)) this.chosen = null;
    if (focused && this.chosen !== null) lines.get(this.chosen).line.focus({ preventScroll: true });
    this.empty.hidden = rows.length > 0;
  }

  mark(line, chosen) {
    line.classList.toggle("chosen", chosen);
    line.setAttribute("tabindex", chosen ? "0" : "-1");
    line.setAttribute("aria-current", chosen);
  }

  get row() {
    return this.lines.get(this.chosen)?.row ?? null;
  }

  choose(id, open = false) {
    const [before, now] = [this.lines.get(this.chosen), this.lines.get(id)];
    if (!now) return;
    if (before) this.mark(before.line, false);
    this.chosen = id;
    this.mark(now.line, true);
    if (document.activeElement !== now.line) now.line.focus({ preventScroll: true });
    now.line.scrollIntoView({ block: "nearest" });
    if (open) this.open?.(now.row);
  }

  move(by) {
    const lines = [...this.body.children].filter((line) => !line.hidden);
    if (lines.length === 0) return;
    const at = lines.findIndex((line) => line.dataset.id === this.chosen);
    const next = at < 0 ? (by > 0 ? 0 : lines.length - 1) : Math.min(Math.max(at + by, 0), lines.length - 1);
    this.choose(lines[next].dataset.id);
  }

  // Whether a key was for the table.
  key(event) {
    const moves = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, PageDown: 20, PageUp: -20, Home: -1e9, End: 1e9 };
    if (event.key in moves) this.move(moves[event.key]);
    else if (event.key === "Enter" && this.row) this.open?.(this.row);
    else return false;
    return true;
  }
}
