// One project: its state, its figures, its events, and the forms to publish and to trigger.

import { EdgeError } from "./edge.js";
import { ago, copying, element, figure, plural, size, time } from "./page-dom.js";
import { fillDetail } from "./page-detail.js";
import { EventList } from "./page-events.js";
import { Explanation } from "./page-explain.js";
import { Feed } from "./page-feed.js";
import { publishForm, triggerForm } from "./page-forms.js";
import { ask, base, confirmed, curlToken } from "./page-hub.js";
import { BADGES } from "./page-words.js";

const SOON_MS = 400;
const MOST_TYPES = 200;

export class ProjectView {
  #name;
  #path;
  #feed;
  #list;
  #explanation;
  #types = new Set();
  #ended = new AbortController();
  #onDeleted;
  #own = null; // the id of this page's connection, once it receives
  #observing = "connecting";
  #waiting = 0;
  #refreshing = 0;
  #on = {};

  /** `onDeleted` takes a sentence. */
  constructor(name, root, onDeleted) {
    this.#name = name;
    this.#path = `projects/${encodeURIComponent(name)}`;
    this.#onDeleted = onDeleted;
    this.#explanation = new Explanation(this.#path);
    this.#list = new EventList({ onChoose: (item) => this.#show(item), onCount: (counts) => this.#count(counts) });
    root.replaceChildren(...this.#build());
    this.#feed = new Feed(name, {
      add: (items) => this.#add(items),
      onState: (change) => this.#badge(change),
      onReceiving: (change) => this.#receiving(change),
    });
    this.#refresh();
  }

  close() {
    this.#ended.abort();
    this.#feed.close();
    clearInterval(this.#waiting);
    clearTimeout(this.#refreshing);
  }

  /** Called periodically while the page is visible; `status` is the hub's, null where that is not permitted. */
  refresh(status) {
    this.#on.remove.hidden = Boolean(status) && !status.permissions.includes("admin");
    return this.#refresh();
  }

  // Events and connections

  #add(items) {
    for (const { kind, name } of items) if (kind === "event") this.#sawType(name);
    this.#list.add(items);
    this.#refreshing ||= setTimeout(() => {
      this.#refreshing = 0;
      this.#refresh();
    }, SOON_MS);
  }

  #sawType(name) {
    if (this.#types.has(name) || this.#types.size >= MOST_TYPES) return;
    this.#types.add(name);
    this.#on.types.append(element("option", { value: name }));
  }

  #badge({ state, reason, waitMs }) {
    clearInterval(this.#waiting);
    this.#on.badge.dataset.state = state;
    this.#observing = state;
    this.#label();
    this.#on.reason.textContent = reason;
    this.#on.countdown.textContent = "";
    this.#on.figures.classList.toggle("stale", state !== "open");
    if (state !== "reconnecting") return;
    const until = Date.now() + waitMs;
    const tick = () => {
      const seconds = Math.ceil((until - Date.now()) / 1000);
      this.#on.countdown.textContent = seconds > 0 ? `again in ${seconds} s` : "now…";
    };
    this.#waiting = setInterval(tick, 500);
    tick();
  }

  #label() {
    this.#on.badge.lastChild.data = this.#observing === "open" && this.#own ? "Receiving" : BADGES[this.#observing];
  }

  async #receiving({ state, reason, hello }) {
    const receives = this.#feed.receives;
    this.#own = hello?.connection ?? null;
    this.#label();
    this.#on.receive.setAttribute("aria-pressed", String(receives));
    this.#on.receive.textContent = receives ? "Stop receiving" : "Receive events here";
    this.#on.role.textContent = !receives
      ? "This page observes and counts as nothing."
      : state === "open"
        ? "This page is a subscriber: events are delivered to it."
        : `This page is to be a subscriber: ${reason || "connecting"}.`;
    const known = await this.#refresh();
    if (state === "open" && known)
      console.log(`Connection added for project ${this.#name}. Total connections: ${known.connections_total}`);
  }

  // What the hub knows of the project

  async #refresh() {
    try {
      const known = await ask(this.#path);
      if (!this.#ended.signal.aborted) this.#figures(known);
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
    this.#on.emptyText.textContent = ring.events
      ? `${plural(ring.events, "event")} held, newest ${ring.newest}. To publish another one from a terminal:`
      : "No events yet. Publish one below, or from a terminal:";
    this.#on.example.textContent = `curl${curlToken()} ${new URL(`${this.#path}/events`, base).href} -d '{"data": "hello"}'`;
    this.#on.pending.hidden = !misses.pending || this.#feed.receives;
    this.#on.pendingText.textContent = `${plural(misses.pending, "event waits", "events wait")} for the next subscriber. If they are received here, they count as delivered.`;
    this.#on.finished.hidden = !known.finished;
    this.#explanation.show(known, this.#own);
  }

  #show(item) {
    const detail = this.#on.detail;
    detail.hidden = !item;
    if (!item) return;
    fillDetail(detail, item, this.#path, () => {
      detail.hidden = true;
      this.#list.node.focus();
    });
  }

  #count({ shown, all, held, hasEvents }) {
    const paused = Boolean(this.#list?.paused);
    this.#on.count.textContent =
      shown === all ? plural(all, "row") : `${shown.toLocaleString("en")} of ${plural(all, "row")}`;
    this.#on.pause.textContent = paused ? `Resume${held ? ` (${held.toLocaleString("en")} new)` : ""}` : "Pause";
    this.#on.pause.setAttribute("aria-pressed", String(paused));
    this.#on.empty.hidden = hasEvents;
  }

  // What the person does

  #download() {
    const address = URL.createObjectURL(new Blob(this.#list.ndjson(), { type: "application/x-ndjson" }));
    element("a", { href: address, download: `${this.#name}.ndjson` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
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
      this.#on.note.textContent = error.message;
    }
  }

  // The page's parts

  #build() {
    const on = this.#on;
    const search = (label, apply, more = {}) =>
      element("input", {
        type: "search",
        placeholder: label,
        "aria-label": label,
        autocomplete: "off",
        ...more,
        oninput: (event) => apply(event.target.value.trim()),
      });
    on.badge = element(
      "span",
      { class: "badge", id: "badge" },
      element("span", { class: "dot", "aria-hidden": "true" }),
      "Connecting",
    );
    on.reason = element("span", { class: "reason", id: "reason" });
    on.countdown = element("span", { class: "quiet" });
    on.note = element("p", { class: "quiet", role: "status" });
    on.role = element("p", { class: "quiet", id: "role", role: "status" }, "This page observes and counts as nothing.");
    on.receive = element(
      "button",
      {
        id: "receive",
        "aria-pressed": "false",
        onclick: () => (this.#feed.receives ? this.#feed.stopReceiving() : this.#feed.receive()),
      },
      "Receive events here",
    );
    on.remove = element("button", { class: "danger", hidden: true, onclick: () => this.#delete() }, "Delete…");
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
      element("button", { onclick: () => this.#feed.receive() }, "Receive them here"),
    );
    on.types = element("datalist", { id: "types" });
    on.count = element("span", { class: "quiet", id: "count" });
    on.pause = element(
      "button",
      {
        "aria-pressed": "false",
        onclick: () => {
          this.#list.paused = !this.#list.paused;
        },
      },
      "Pause",
    );
    on.emptyText = element("span");
    on.example = element("code");
    on.empty = element("p", { class: "blank quiet" }, on.emptyText, on.example);
    on.detail = element("section", { class: "detail", hidden: true, "aria-label": "Selected event" });
    return [
      element(
        "header",
        { class: "title" },
        element("a", { class: "back", href: "#/" }, "‹ Overview"),
        element("h1", {}, this.#name),
        element(
          "button",
          { class: "plain", "aria-label": "Copy the name", onclick: copying(() => this.#name, on.note) },
          "Copy",
        ),
        element("span", { role: "status", class: "state" }, on.badge, on.reason),
        on.countdown,
        on.note,
      ),
      element("div", { class: "acts" }, on.role, on.receive, on.remove),
      on.figures,
      on.finished,
      on.pending,
      element(
        "section",
        { class: "stream", "aria-label": "Events" },
        element(
          "div",
          { class: "tools" },
          search("Filter by type", (type) => this.#list.filter({ type }), { list: "types" }),
          search("Search in data", (text) => this.#list.filter({ text })),
          on.types,
          on.pause,
          element("button", { onclick: () => this.#list.clear() }, "Clear"),
          element("button", { onclick: () => this.#download() }, "Download"),
          on.count,
        ),
        element("div", { class: "split" }, element("div", { class: "pane" }, this.#list.node, on.empty), on.detail),
      ),
      this.#explanation.node,
      element(
        "div",
        { class: "forms" },
        publishForm(this.#path, () => this.#refresh()),
        triggerForm(
          this.#path,
          () => this.#feed.receives,
          () => this.#refresh(),
        ),
      ),
    ];
  }
}
