// Why no subscriber was connected, laid out from the hub's explanation; and the connections there are.

import { ago, element, size, table, time } from "./page-dom.js";
import { ask } from "./page-hub.js";

export class Explanation {
  #path;
  #on = {};
  #total = 0;
  #explainedFor = null; // the number of connections that the explanation was made for

  constructor(path) {
    this.#path = path;
    const on = this.#on;
    on.title = element("summary", {}, "Connections and history");
    on.connections = element("div");
    on.text = element("div", { class: "explanation", "aria-live": "polite" });
    this.node = element(
      "details",
      { class: "more card", ontoggle: () => this.#explain() },
      on.title,
      on.text,
      on.connections,
    );
  }

  /** Shows what the project's status says; `own` is the id of this page's connection. */
  show({ connections, connections_total: total, last_disconnect: left }, own) {
    this.#total = total;
    this.#on.title.textContent = total ? "Connections and history" : "Why was no subscriber connected?";
    const more = total > connections.length ? `The newest ${connections.length} of ${total}.` : "";
    const last =
      left && element("p", { class: "quiet" }, "Last disconnect ", time(left.at, "", ago), `, reason: ${left.reason}.`);
    this.#on.connections.replaceChildren(
      ...(total ? [element("h3", {}, "Connections"), connectionTable(connections, own)] : []),
      ...(more ? [element("p", { class: "quiet" }, more)] : []),
      ...(last ? [last] : []),
    );
    if (this.#explainedFor !== total) this.#explain();
  }

  async #explain() {
    if (!this.node.open) return;
    this.#explainedFor = this.#total;
    const shown = this.#on.text;
    try {
      shown.replaceChildren(...layout(await ask(`${this.#path}/explain`, { headers: { Accept: "application/json" } })));
    } catch (error) {
      shown.replaceChildren(element("p", {}, error.message));
    }
  }
}

/** Text with `code` in it. */
const marked = (text) => text.split("`").map((part, at) => (at % 2 ? element("code", {}, part) : part));

function layout({ answer, why, todo, facts, known_since: since }) {
  return [
    element("p", { class: "answer" }, answer),
    element("p", {}, ...marked(why)),
    ...(todo.length
      ? [element("h3", {}, "What to do"), element("ul", {}, ...todo.map((step) => element("li", {}, ...marked(step))))]
      : []),
    element("h3", {}, "What happened, newest first"),
    table(
      ["When", "What"],
      [
        ...facts.map(({ at, text }) => [time(at), text]),
        [time(since), "The hub started; nothing is known from before."],
      ],
      "what happened",
    ),
  ];
}

function connectionTable(connections, own) {
  const rows = connections.map((connection) => [
    connection.id === own ? `${connection.id} (this page)` : connection.id,
    connection.address,
    connection.sub ?? "–",
    time(connection.since, "", ago),
    connection.last_event ?? "–",
    size(connection.unacknowledged_bytes),
    connection.round_trip_ms === null ? "–" : `${connection.round_trip_ms} ms`,
  ]);
  return table(["Id", "From", "Subject", "Since", "Last event", "Unacknowledged", "Round trip"], rows, "connections");
}
