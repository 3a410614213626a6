// What stands beside and over a view: the pane with all of one thing, questions, and what is not there.

import { el, put, say } from "./dom.js";

// A view with a pane on its right that shows one thing at a time.
export class Split {
  constructor(main) {
    this.pane = el("aside", { class: "pane", "aria-label": "Details", tabindex: "-1", hidden: true });
    this.element = el("div", { class: "split" }, el("div", { class: "main" }, main), this.pane);
  }

  show(title, ...content) {
    const close = el("button", { type: "button", class: "close", "aria-label": "Close (Esc)", onclick: () => this.close() }, "×");
    put(this.pane, el("header", {}, el("h2", {}, title), close), ...content);
    this.pane.hidden = false;
    this.element.classList.add("open");
    this.pane.scrollTop = 0;
  }

  close() {
    const open = !this.pane.hidden;
    this.pane.hidden = true;
    this.element.classList.remove("open");
    put(this.pane);
    return open;
  }
}

// Asks in a dialog. `fields` are elements with a `name`; resolves to their values, or to null.
export function question({ title, text, fields = [], yes = "OK", danger = false, typed = null, only = false }) {
  return new Promise((resolve) => {
    const go = el("button", { type: "submit", value: "yes", class: danger ? "danger" : "primary" }, yes);
    const word = typed === null ? null : el("input", { name: "typed", autocomplete: "off", spellcheck: "false", required: true });
    const form = el("form", { method: "dialog" },
      el("h2", {}, title), text, fields,
      word && el("label", {}, "Type ", el("code", {}, typed), " to confirm", word),
      el("div", { class: "buttons" }, !only && el("button", { type: "button", onclick: () => dialog.close("") }, "Cancel"), go));
    const dialog = el("dialog", { "aria-label": title }, form);
    if (word) {
      const check = () => { go.disabled = word.value.trim() !== typed; };
      word.addEventListener("input", check);
      check();
    }
    dialog.addEventListener("close", () => {
      const values = Object.fromEntries(new FormData(form));
      dialog.remove();
      resolve(dialog.returnValue === "yes" ? values : null);
    });
    document.body.append(dialog);
    dialog.showModal();
    (word ?? form.querySelector("input, textarea, select") ?? go).focus();
  });
}

// A labelled field for a question or a form.
export function field(text, attributes, tag = "input") {
  return el("label", {}, text, el(tag, { autocomplete: "off", ...attributes }));
}

// What to show in place of a view when its question was refused.
export function unable(error) {
  const text = error.missing ? "Not available in this version of the control service."
    : error.status === 403 ? `Your key does not reach this: ${error.message}.` : `${error.message}.`;
  return el("p", { class: "unable", role: "note" }, text);
}

// Does something that changes the world and says how it went.
export async function attempt(what, act) {
  try {
    const done = await act();
    if (what) say(what);
    return done ?? true;
  } catch (error) {
    say([error.message, ...(error.findings ?? [])].join("; "), true);
    return null;
  }
}
