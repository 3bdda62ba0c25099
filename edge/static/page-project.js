// One project: its state, its figures, its events, and the forms to publish and to trigger.

import { EdgeError } from "./edge.js";
import { ago, element, figure, plural, size, time } from "./page-dom.js";
import { Explanation } from "./page-explain.js";
import { publishForm, triggerForm } from "./page-forms.js";
import { ask, base, confirmed, curlToken } from "./page-hub.js";
import { EventsPane } from "./page-pane.js";

const SOON_MS = 400;

export class ProjectView {
  #name;
  #path;
  #pane;
  #explanation;
  #closed = false;
  #onDeleted;
  #refreshing = 0;
  #on = {};

  /** `onDeleted` takes a sentence. */
  constructor(name, root, onDeleted) {
    this.#name = name;
    this.#path = `projects/${encodeURIComponent(name)}`;
    this.#onDeleted = onDeleted;
    this.#explanation = new Explanation(this.#path);
    this.#pane = new EventsPane([name], {
      onEvents: () => this.#refreshSoon(),
      onReceiving: (state) => this.#receiving(state),
    });
    root.replaceChildren(...this.#build());
    this.#refresh();
  }

  close() {
    this.#closed = true;
    this.#pane.close();
    clearTimeout(this.#refreshing);
  }

  /** Called periodically while the page is visible; `status` is the hub's, null where that is not permitted. */
  refresh(status) {
    this.#on.remove.hidden = Boolean(status) && !status.permissions.includes("admin");
    return this.#refresh();
  }

  #refreshSoon() {
    this.#refreshing ||= setTimeout(() => {
      this.#refreshing = 0;
      this.#refresh();
    }, SOON_MS);
  }

  async #receiving(state) {
    const known = await this.#refresh();
    if (state === "open" && known)
      console.log(`Connection added for project ${this.#name}. Total connections: ${known.connections_total}`);
  }

  async #refresh() {
    try {
      const known = await ask(this.#path);
      if (!this.#closed) this.#figures(known);
      return known;
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
      return null; // the badge and the bar say so already
    }
  }

  #figures(known) {
    const { ring, misses, connections_total: total } = known;
    this.#on.figures.replaceChildren(
      figure("Connections", total, total ? "open now" : "no subscriber"),
      figure("Events held", ring.events, size(ring.bytes)),
      figure("Missed", misses.total, misses.last ? time(misses.last, "last ", ago) : "never", "some-warn"),
      figure("Recovered", misses.recovered, "delivered later", "some-good"),
      figure("Pending", misses.pending, "still held", "some-warn"),
      figure("Lost", misses.lost, "undelivered", "some-bad"),
    );
    this.#pane.empty = [
      ring.events
        ? `${plural(ring.events, "event")} held, newest ${ring.newest}. To publish another one from a terminal:`
        : "No events yet. Publish one below, or from a terminal:",
      `curl${curlToken()} ${new URL(`${this.#path}/events`, base).href} -d '{"data": "hello"}'`,
    ];
    this.#on.pending.hidden = !misses.pending || this.#pane.receives;
    this.#on.pendingText.textContent =
      `${plural(misses.pending, "event waits", "events wait")} for the next subscriber. ` +
      `${misses.pending === 1 ? "It counts" : "They count"} as delivered once received here.`;
    this.#on.finished.hidden = !known.finished;
    this.#explanation.show(known, this.#pane.own);
  }

  async #delete() {
    const known = await this.#refresh();
    const { connections_total: connections = 0, ring: { events = 0 } = {} } = known ?? {};
    const text = `Closes ${plural(connections, "stream")} and drops ${plural(events, "event")}. This can't be undone.`;
    if (!(await confirmed(`Delete ${this.#name}?`, text, "Delete the project"))) return;
    try {
      const { connections_closed: closed, events_dropped: dropped } = await ask(this.#path, { method: "DELETE" });
      this.#onDeleted(
        `${this.#name} was deleted: ${plural(closed, "stream")} closed, ${plural(dropped, "event")} dropped.`,
      );
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
      this.#pane.note(error.message);
    }
  }

  #build() {
    const on = this.#on;
    on.remove = element("button", { class: "danger", hidden: true, onclick: () => this.#delete() }, "Delete…");
    this.#pane.acts.append(on.remove);
    on.figures = element("dl", { class: "figures" });
    on.finished = element(
      "p",
      { class: "notice", hidden: true },
      "The project is finished. Publishing again reopens it.",
    );
    on.pendingText = element("p");
    on.pending = element(
      "div",
      { class: "notice pending", hidden: true },
      on.pendingText,
      element("button", { onclick: () => this.#pane.receive() }, "Receive events here"),
    );
    const refresh = () => this.#refresh();
    return [
      this.#pane.title,
      this.#pane.acts,
      on.figures,
      on.finished,
      on.pending,
      this.#pane.node,
      this.#explanation.node,
      element(
        "div",
        { class: "forms" },
        publishForm(`${this.#path}/events`, refresh),
        triggerForm(this.#path, () => this.#pane.receives, refresh),
      ),
    ];
  }
}
