// One row of the list in full: its JSON, folded, and the curl command that publishes it again.

import { copying, element, jsonTree, quoted, size, time } from "./page-dom.js";
import { base, curlToken } from "./page-hub.js";

const MOST_TEXT_CHARS = 100_000;

/** Fills `box` with `item`; `onClose` puts the details away. */
export function fillDetail(box, item, onClose) {
  const title = item.kind === "event" ? item.label : item.detail ? "Gap" : "Note";
  const close = element("button", { class: "plain", "aria-label": "Close the details", onclick: onClose }, "✕");
  const header = element("header", {}, element("h2", {}, title), close);
  if (item.kind !== "event") {
    const fields = item.detail && element("div", { class: "json" }, jsonTree(item.detail));
    box.replaceChildren(header, element("p", {}, item.text), ...(fields ? [fields] : []));
    return;
  }
  const status = element("span", { class: "quiet", role: "status" });
  box.replaceChildren(
    header,
    element(
      "p",
      { class: "quiet" },
      `${item.id} · ${size(new Blob([item.data]).size)} · `,
      time(item.at.toISOString()),
    ),
    element(
      "p",
      { class: "actions" },
      element("button", { onclick: copying(() => curl(item), status) }, "Copy as curl"),
      element("button", { onclick: copying(() => item.data, status) }, "Copy data"),
      status,
    ),
    body(item.data),
  );
}

function body(data) {
  const value = parsed(data);
  if (value !== undefined) return element("div", { class: "json" }, jsonTree(value));
  return element("pre", { class: "json", tabindex: "0" }, data.slice(0, MOST_TEXT_CHARS));
}

/** The value of a JSON text; undefined when it is none. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** What publishes the same event again. */
function curl({ project, name, data }) {
  const url = new URL(`projects/${encodeURIComponent(project)}/events`, base);
  const isJson = parsed(data) !== undefined;
  if (!isJson) url.searchParams.set("type", name);
  const type = isJson ? "application/json" : "text/plain";
  const sent = isJson ? `{"type": ${JSON.stringify(name)}, "data": ${data}}` : data;
  return `curl ${quoted(url.href)}${curlToken()} -H 'Content-Type: ${type}' --data-binary ${quoted(sent)}`;
}
