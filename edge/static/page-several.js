// Several projects on one page: their events in one list, over one stream, and a row of figures for each.

import { EdgeError } from "./edge.js";
import { element, number, table } from "./page-dom.js";
import { publishForm } from "./page-forms.js";
import { ask, base, curlToken } from "./page-hub.js";
import { linkTo } from "./page-list.js";
import { EventsPane } from "./page-pane.js";

export class SeveralView {
  #names;
  #pane;
  #figures = element("section", { class: "card" });
  #closed = false;

  constructor(names, root) {
    this.#names = names;
    this.#pane = new EventsPane(names, { onEvents: () => {}, onReceiving: () => this.refresh() });
    const path = `events?${new URLSearchParams(names.map((name) => ["project", name]))}`;
    this.#pane.empty = [
      "No events yet. To publish one to each project from a terminal:",
      `curl${curlToken()} '${new URL(path, base).href}' -d '{"data": "hello"}'`,
    ];
    root.replaceChildren(
      this.#pane.title,
      this.#pane.acts,
      this.#figures,
      this.#pane.node,
      element(
        "div",
        { class: "forms" },
        publishForm(path, () => this.refresh()),
      ),
    );
  }

  close() {
    this.#closed = true;
    this.#pane.close();
  }

  /** Called periodically while the page is visible. */
  async refresh() {
    const rows = await Promise.all(this.#names.map((name) => row(name)));
    if (this.#closed) return;
    const heads = ["Project", "Connections", "Events held", "Missed", "Recovered", "Pending", "Lost"];
    this.#figures.replaceChildren(table(heads, rows, "figures of each project"));
  }
}

async function row(name) {
  const link = element("a", { href: linkTo(name) }, name);
  try {
    const { connections_total: connections, ring, misses } = await ask(`projects/${encodeURIComponent(name)}`);
    const figures = [connections, ring.events, misses.total, misses.recovered, misses.pending, misses.lost];
    return [link, ...figures.map(number)];
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    return [link, error.status === 404 ? "unknown" : error.message];
  }
}
