// Small things the page's parts share. Text from outside only ever becomes text: nothing here parses HTML.

/** An element: `props` are attributes, `on…` listeners; children are nodes or texts. */
export function element(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null && child !== false));
  return made;
}

export const byId = (id) => document.getElementById(id);

export const number = (count) => count.toLocaleString("en");

export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

/** An element of SVG, by its attributes. */
export function drawing(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const twoDigits = (value) => String(value).padStart(2, "0");

/** A moment as local time, to the millisecond; with its day unless that is today. */
export function clock(date) {
  const day =
    date.toDateString() === new Date().toDateString()
      ? ""
      : `${twoDigits(date.getMonth() + 1)}-${twoDigits(date.getDate())} `;
  return `${day}${date.toLocaleTimeString("en-GB")}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** A moment in UTC: what a local time shows when the pointer rests on it. */
export const utc = (date) => date.toISOString().replace("T", " ").replace("Z", " UTC");

/** A moment of the hub as an element: local time, with UTC on hover. */
export function time(iso, before = "", shown = clock) {
  const date = new Date(iso);
  return element("time", { datetime: iso, title: utc(date) }, before + shown(date));
}

/** Seconds in the two largest units. */
export function duration(seconds) {
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? `${hours} h ${minutes % 60} min` : `${plural(Math.floor(hours / 24), "day")} ${hours % 24} h`;
}

export const ago = (date) => `${duration(Math.max(0, (Date.now() - date) / 1000))} ago`;

export function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  const [count, unit] = bytes < 1024 ** 2 ? [bytes / 1024, "KiB"] : [bytes / 1024 ** 2, "MiB"];
  return `${count.toFixed(count < 100 ? 1 : 0)} ${unit}`;
}

/** One figure of a row; `kind` colours it unless it is 0. */
export const figure = (label, value, note, kind = "") =>
  element(
    "div",
    { class: `figure ${value === 0 ? "none" : kind}` },
    element("dt", {}, label),
    element("dd", {}, typeof value === "number" ? number(value) : value),
    element("dd", { class: "quiet" }, note),
  );

/** A table that scrolls by itself where it is wider than the screen. */
export function table(heads, rows, label = heads[0]) {
  return element(
    "div",
    { class: "wide", tabindex: "0", role: "group", "aria-label": `Table: ${label}` },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, ...rows.map((cells) => element("tr", {}, ...cells.map((cell) => element("td", {}, cell))))),
    ),
  );
}

/** Copies `text`; outside secure contexts, which have no clipboard, by a selection. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = element("textarea", { class: "offscreen", readonly: true });
  field.value = text;
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  if (!copied) throw new Error("The browser refused access to the clipboard.");
}

/** A listener that copies what `text` returns, and says so in `status`. */
export const copying = (text, status) => async () => {
  try {
    await copy(text());
    status.textContent = "Copied";
  } catch (error) {
    status.textContent = error.message;
  }
};

/** `text` as one word of a POSIX shell. */
// Control characters, and those that turn text around: pasted into a terminal they could run something else.
const UNSAFE = /[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]/g;
const octal = (text) => Array.from(new TextEncoder().encode(text), (byte) => `\\0${byte.toString(8)}`).join("");

export const quoted = (text) =>
  text.search(UNSAFE) < 0
    ? `'${text.replaceAll("'", "'\\''")}'`
    : `"$(printf %b '${text.replaceAll("\\", "\\\\").replace(UNSAFE, octal).replaceAll("'", octal)}')"`;

const MOST_CHARS = 20_000;
const MOST_CHILDREN = 200;

/** A JSON value as a tree that folds; what is folded is made when it is opened. */
export function jsonTree(value, name = null, open = true) {
  const label = name === null ? [] : [element("span", { class: "key" }, name), ": "];
  if (value === null || typeof value !== "object") {
    const text = JSON.stringify(value);
    const shown =
      text.length > MOST_CHARS ? `${text.slice(0, MOST_CHARS)}… (${plural(text.length, "character")})` : text;
    return element(
      "div",
      { class: "leaf" },
      ...label,
      element("span", { class: value === null ? "null" : typeof value }, shown),
    );
  }
  const isList = Array.isArray(value);
  const entries = Object.entries(value);
  const [left, right] = isList ? "[]" : "{}";
  if (!entries.length) return element("div", { class: "leaf" }, ...label, left + right);
  const count = isList ? plural(entries.length, "item") : plural(entries.length, "key");
  const fold = element(
    "details",
    {},
    element("summary", {}, ...label, `${left} `, element("span", { class: "quiet" }, count), ` ${right}`),
  );
  const fill = () => {
    if (!fold.open || fold.childElementCount > 1) return;
    fold.append(...entries.slice(0, MOST_CHILDREN).map(([key, child]) => jsonTree(child, key, false)));
    if (entries.length > MOST_CHILDREN)
      fold.append(element("div", { class: "leaf quiet" }, `… ${entries.length - MOST_CHILDREN} more`));
  };
  fold.addEventListener("toggle", fill);
  fold.open = open;
  fill();
  return fold;
}
