// Signing in: a key, in exchange for a cookie that scripts cannot read.

import { ask } from "./api.js";
import { el, put } from "./dom.js";

// Resolves when somebody is signed in.
export function signIn(root) {
  return new Promise((resolve) => {
    const key = el("input", { name: "key", type: "password", autocomplete: "current-password", spellcheck: "false", required: true, "aria-describedby": "why" });
    const why = el("p", { id: "why", class: "bad", role: "alert" });
    const submit = async (event) => {
      event.preventDefault();
      why.textContent = "";
      try {
        await ask("POST", "/session", { body: { key: key.value.trim() } });
        key.value = "";
        resolve();
      } catch (error) {
        why.textContent = error.status === 401 ? "This key is not known." : `${error.message}.`;
        key.select();
      }
    };
    put(root, el("form", { class: "sign", onsubmit: submit },
      el("h1", {}, "Sideguard"),
      // For those who keep passwords: keys have no user's name.
      el("input", { type: "text", name: "username", autocomplete: "username", value: "sideguard", hidden: true }),
      el("label", {}, "Key", key),
      el("button", { type: "submit", class: "primary" }, "Sign in"),
      why,
      el("p", { class: "hint" }, "The first operator's key is in ", el("code", {}, "operator.key"), " of the state directory; ",
        el("code", {}, "sideguard key create"), " makes more.")));
    key.focus();
  });
}
