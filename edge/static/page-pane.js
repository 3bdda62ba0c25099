// The events of one project or several: the list with its tools, the unfolded event, the state of the streams.

import { copying, element, number, plural } from "./page-dom.js";
import { fillDetail } from "./page-detail.js";
import { EventList } from "./page-events.js";
import { Feed } from "./page-feed.js";
import { BADGES } from "./page-words.js";

const MOST_TYPES = 200;
const OBSERVES = "This page observes: it is not a subscriber, and receives no pending event.";

export class EventsPane {
  #names;
  #feed;
  #list;
  #onReceiving;
  #types = new Set();
  #state = "connecting";
  #waiting = 0;
  #on = {};
  /** The id of this page's connection, once it receives. */
  own = null;

  /** `onEvents` is called when rows were added, `onReceiving` with the state of the page's subscription. */
  constructor(names, { onEvents, onReceiving }) {
    this.#names = names;
    this.#onReceiving = onReceiving;
    this.#list = new EventList({ onChoose: (item) => this.#show(item), onCount: (counts) => this.#count(counts) });
    this.#build();
    this.#feed = new Feed(names, {
      add: (items) => {
        for (const { kind, name } of items) if (kind === "event") this.#sawType(name);
        this.#list.add(items);
        onEvents();
      },
      onState: (change) => this.#observing(change),
      onReceiving: (change) => this.#receiving(change),
    });
  }

  close() {
    this.#feed.close();
    clearInterval(this.#waiting);
  }

  /** Whether the page itself is a subscriber. */
  get receives() {
    return this.#feed.receives;
  }

  receive() {
    this.#feed.receive();
  }

  /** What shows while there is no event; `example` is a command. */
  set empty([text, example]) {
    this.#on.empty.replaceChildren(text, element("code", {}, example));
  }

  #observing({ state, reason, waitMs }) {
    const on = this.#on;
    clearInterval(this.#waiting);
    this.#state = on.badge.dataset.state = state;
    this.#label();
    on.reason.textContent = reason;
    on.countdown.textContent = "";
    if (state !== "reconnecting") return;
    const until = Date.now() + waitMs;
    const tick = () => {
      const seconds = Math.ceil((until - Date.now()) / 1000);
      on.countdown.textContent = seconds > 0 ? `again in ${seconds} s` : "now…";
    };
    this.#waiting = setInterval(tick, 500);
    tick();
  }

  #receiving({ state, reason, hello }) {
    const { receive, role } = this.#on;
    this.own = hello?.connection ?? null;
    this.#label();
    receive.setAttribute("aria-pressed", String(this.receives));
    receive.textContent = this.receives ? "Stop receiving" : "Receive events here";
    role.textContent = !this.receives
      ? OBSERVES
      : state === "open"
        ? "This page is a subscriber: events are delivered to it."
        : `This page is to be a subscriber: ${reason || "connecting"}.`;
    this.#onReceiving(state);
  }

  #label() {
    this.#on.badge.lastChild.data = this.#state === "open" && this.own ? "Receiving" : BADGES[this.#state];
  }

  #sawType(name) {
    if (this.#types.has(name) || this.#types.size >= MOST_TYPES) return;
    this.#types.add(name);
    this.#on.types.append(element("option", { value: name }));
  }

  #show(item) {
    const { detail } = this.#on;
    detail.hidden = !item;
    if (!item) return;
    fillDetail(detail, item, () => {
      detail.hidden = true;
      this.#list.node.focus();
    });
  }

  #count({ shown, all, held, hasEvents }) {
    const { count, pause, empty } = this.#on;
    const paused = Boolean(this.#list?.paused);
    count.textContent = shown === all ? plural(all, "row") : `${number(shown)} of ${plural(all, "row")}`;
    pause.textContent = paused ? `Resume${held ? ` (${number(held)} new)` : ""}` : "Pause";
    pause.setAttribute("aria-pressed", String(paused));
    empty.hidden = hasEvents;
  }

  #download() {
    const address = URL.createObjectURL(new Blob(this.#list.ndjson(), { type: "application/x-ndjson" }));
    element("a", { href: address, download: `${this.#names.join("-")}.ndjson` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 60_000);
  }

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
    const name = this.#names.join(", ");
    on.badge = element(
      "span",
      { class: "badge", id: "badge" },
      element("span", { class: "dot", "aria-hidden": "true" }),
      "Connecting",
    );
    on.reason = element("span", { class: "reason", id: "reason" });
    on.countdown = element("span", { class: "quiet" });
    on.note = element("p", { class: "quiet", role: "status" });
    on.role = element("p", { class: "quiet", id: "role", role: "status" }, OBSERVES);
    on.receive = element(
      "button",
      {
        id: "receive",
        "aria-pressed": "false",
        onclick: () => (this.receives ? this.#feed.stopReceiving() : this.receive()),
      },
      "Receive events here",
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
    on.empty = element("p", { class: "blank quiet" });
    on.detail = element("section", { class: "detail", hidden: true, "aria-label": "Selected event" });
    /** The title with the state, what the page is to the hub, and the events: for the view to place. */
    this.title = element(
      "header",
      { class: "title" },
      element("a", { class: "back", href: "#/" }, "‹ Overview"),
      element("h1", {}, name),
      element(
        "button",
        { class: "plain", "aria-label": "Copy the name", onclick: copying(() => name, on.note) },
        "Copy",
      ),
      element("span", { role: "status", class: "state" }, on.badge, on.reason),
      on.countdown,
      on.note,
    );
    this.acts = element("div", { class: "acts" }, on.role, on.receive);
    this.node = element(
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
    );
  }

  /** Says `text` beside the title. */
  note(text) {
    this.#on.note.textContent = text;
  }
}
