// Elements and texts. Nothing here or elsewhere in the page makes HTML of data: names are chosen by agents.

// An element with attributes (`on…` are listeners, `null` and `false` are left out) and children.
export function el(tag, attributes, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

// The same, of SVG.
export function svg(tag, attributes, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Puts children in place of those that are there.
export function put(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

// Tells the reader, and screen readers, what has happened.
export function say(text, bad = false) {
  const said = document.getElementById("said");
  said.textContent = text;
  said.className = bad ? "bad" : "";
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { said.textContent = ""; }, bad ? 10000 : 4000);
}

// A word in its colour; the word itself is always there too.
export function label(word, kind = word) {
  return el("span", { class: `label ${/^[a-z_]+$/.test(kind ?? "") ? kind : ""}` }, word ?? "–");
}

const pad = (number, width = 2) => String(number).padStart(width, "0");

export function clock(time) {
  const at = new Date(time);
  if (Number.isNaN(at.getTime())) return String(time ?? "");
  return `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}.${pad(at.getMilliseconds(), 3)}`;
}

// The time of day, with the day where it is not today.
export function when(time) {
  const today = new Date(time).toDateString() === new Date().toDateString();
  return today ? clock(time) : moment(time);
}

export function moment(time) {
  const at = new Date(time);
  if (!time || Number.isNaN(at.getTime())) return "";
  const day = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
  return `${day} ${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
}

export function ago(time) {
  const seconds = Math.round((Date.now() - new Date(time).getTime()) / 1000);
  if (Number.isNaN(seconds)) return "";
  const [far, unit] = Math.abs(seconds) < 90 ? [seconds, "s"]
    : Math.abs(seconds) < 5400 ? [Math.round(seconds / 60), "min"]
    : Math.abs(seconds) < 129600 ? [Math.round(seconds / 3600), "h"] : [Math.round(seconds / 86400), "d"];
  return far >= 0 ? `${far} ${unit} ago` : `in ${-far} ${unit}`;
}

export function count(number) {
  return number === null || number === undefined ? "" : Number(number).toLocaleString("en-US");
}

export function millis(micros) {
  if (micros === null || micros === undefined) return "";
  return micros < 10000 ? `${(micros / 1000).toFixed(1)} ms` : micros < 1e7 ? `${Math.round(micros / 1000)} ms` : `${(micros / 1e6).toFixed(1)} s`;
}

export function dollars(text) {
  if (text === null || text === undefined || text === "") return "";
  const number = Number(text);
  return Number.isNaN(number) ? String(text) : `$${number.toFixed(number !== 0 && Math.abs(number) < 0.01 ? 6 : 4)}`;
}

// Something as indented text, for reading.
export function pretty(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2) ?? "";
}

// Names and values in two columns, long and nested values below their names.
export function facts(pairs) {
  const list = el("dl", { class: "facts" });
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === "" || (Array.isArray(value) && value.length === 0)) continue;
    const plain = value instanceof Node || typeof value !== "object";
    list.append(el("dt", {}, name), el("dd", {}, value instanceof Node ? value : plain ? String(value) : el("pre", {}, pretty(value))));
  }
  return list;
}
