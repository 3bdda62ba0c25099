// One project: its state, its figures, its events, and the forms to publish and to trigger.
//
// The stream is shared among this browser's tabs and begins with what comes next; what the hub still holds is read once,
// beside it. Reading counts as delivery, so while misses are pending, history is loaded on request only.

import { EdgeError, ProjectStream } from "./edge.js";
import { ago, element, plural, size } from "./page-dom.js";
import { fillDetail } from "./page-detail.js";
import { EventList } from "./page-events.js";
import { publishForm, triggerForm } from "./page-forms.js";
import { ask, askForToken, base, token } from "./page-hub.js";
import { BADGES, CLOSINGS, ESTABLISHED, NOT_ACTIVE, gapText, why } from "./page-words.js";

const HISTORY_MS = 10_000;
const SOON_MS = 400;

export class ProjectView {
  #name;
  #path;
  #stream = null;
  #list;
  #types = new Set();
  #ended = new AbortController();
  #toast;
  #closing = null;
  #waiting = 0;
  #begun = false;
  #refreshing = 0;
  #on = {};

  constructor(name, root, toast) {
    this.#name = name;
    this.#path = `projects/${encodeURIComponent(name)}`;
    this.#toast = toast;
    this.#list = new EventList({ onChoose: (item) => this.#show(item), onCount: (counts) => this.#count(counts) });
    root.replaceChildren(...this.#build());
    this.#connect();
  }

  close() {
    this.#ended.abort();
    this.#stream.close();
    clearInterval(this.#waiting);
    clearTimeout(this.#refreshing);
  }

  /** Called periodically while the page is visible. */
  refresh() {
    return this.#refresh();
  }

  #refreshSoon() {
    this.#refreshing ||= setTimeout(() => {
      this.#refreshing = 0;
      this.#refresh();
    }, SOON_MS);
  }

  // The stream

  #connect() {
    this.#stream?.close();
    const stream = (this.#stream = new ProjectStream(base, {
      project: this.#name,
      since: "none",
      shared: true,
      token,
    }));
    stream.addEventListener("statechange", ({ detail }) => this.#changed(detail));
    stream.addEventListener("event", (event) => {
      this.#add(event);
      this.#refreshSoon();
    });
    stream.addEventListener("gap", ({ detail }) =>
      this.#list.add({ kind: "gap", at: new Date(), text: gapText(detail), detail }),
    );
    stream.addEventListener("closing", ({ detail }) => {
      this.#closing = CLOSINGS[detail.reason] ?? detail.reason;
    });
    this.#badge("connecting");
  }

  async #changed({ state, previous, error, waitMs }) {
    clearInterval(this.#waiting);
    const reason = this.#closing ?? why(error);
    this.#badge(state, reason);
    if (state === "open") {
      this.#closing = null;
      console.log(`✅ ${ESTABLISHED}`);
      this.#toast(ESTABLISHED, "good");
      this.#list.add({ kind: "note", at: new Date(), text: `Connected (${this.#stream.hello?.connection})` });
      const newest = this.#stream.lastEventId;
      const known = await this.#refresh();
      if (known && !this.#ended.signal.aborted) {
        console.log(
          `[StreamingService] ✅ Connection added for project ${this.#name}. Total connections: ${known.connections_total}`,
        );
      }
      if (!this.#begun && !known?.misses.pending) this.#readHistory(newest);
      this.#begun = true;
    } else if (state === "reconnecting") {
      const until = Date.now() + waitMs;
      const tick = () => {
        const seconds = Math.ceil((until - Date.now()) / 1000);
        this.#on.badge.lastChild.data =
          seconds > 0 ? `${BADGES.reconnecting} in ${seconds} s` : `${BADGES.reconnecting}…`;
      };
      this.#waiting = setInterval(tick, 500);
      tick();
      if (previous !== "reconnecting") this.#lost(reason);
    } else if (state === "closed" && error) {
      this.#lost(reason);
      if (error.status === 401) {
        await askForToken();
        if (!this.#ended.signal.aborted) this.#connect();
      }
    }
  }

  #lost(reason) {
    console.warn(`⚠️ ${NOT_ACTIVE}: ${reason}`);
    this.#toast(`${NOT_ACTIVE}: ${reason}`, "bad");
    this.#list.add({ kind: "note bad", at: new Date(), text: `Connection lost: ${reason}` });
  }

  #badge(state, reason = "") {
    this.#on.badge.dataset.state = state;
    this.#on.badge.lastChild.data = BADGES[state];
    this.#on.reason.textContent = state === "open" ? "" : reason;
    this.#on.figures.classList.toggle("stale", state !== "open");
  }

  #add({ name, data, id }) {
    this.#sawType(name);
    this.#list.add({ kind: "event", at: new Date(), name, data, id });
  }

  #sawType(name) {
    if (this.#types.has(name) || this.#types.size >= 200) return;
    this.#types.add(name);
    this.#on.types.append(element("option", { value: name }));
  }

  /** Reads what the hub holds, up to the event `newest`, and puts it before what has come since. */
  #readHistory(newest) {
    if (!newest) return;
    const last = Number(newest.split("-")[1]);
    const items = [];
    const stream = new ProjectStream(base, { project: this.#name, since: "all", token });
    const done = () => {
      clearTimeout(timer);
      stream.close();
      if (!this.#ended.signal.aborted) this.#list.addEarlier(items);
    };
    const timer = setTimeout(done, HISTORY_MS);
    this.#ended.signal.addEventListener("abort", done);
    stream.addEventListener("gap", ({ detail }) =>
      items.push({ kind: "gap", at: new Date(), text: gapText(detail), detail }),
    );
    stream.addEventListener("event", ({ name, data, id }) => {
      const seq = Number(id.split("-")[1]);
      if (seq <= last) {
        this.#sawType(name);
        items.push({ kind: "event", at: new Date(), earlier: true, name, data, id });
      }
      if (seq >= last) done();
    });
  }

  // What the hub knows of the project

  async #refresh() {
    try {
      const known = await ask(this.#path);
      if (!this.#ended.signal.aborted) this.#figures(known);
      return known;
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
      return null; // the badge and the list of projects say so already
    }
  }

  #figures(known) {
    const { ring, misses, connections, connections_total: total } = known;
    const figure = (label, value, note, kind = "") =>
      element(
        "div",
        { class: `figure ${value ? kind : "none"}` },
        element("dt", {}, label),
        element("dd", {}, value.toLocaleString("en")),
        element("dd", { class: "quiet" }, note),
      );
    this.#on.figures.replaceChildren(
      figure("Connections", total, this.#stream.isConnected ? "with this page" : "open now"),
      figure("Events held", ring.events, size(ring.bytes)),
      figure("Missed", misses.total, misses.last ? `last ${ago(misses.last)}` : "never", "some-warn"),
      figure("Recovered", misses.recovered, "delivered later", "some-good"),
      figure("Pending", misses.pending, "held for a subscriber", "some-warn"),
      figure("Lost", misses.lost, "evicted", "some-bad"),
    );
    this.#on.emptyText.textContent = ring.events
      ? `${plural(ring.events, "event")} held, newest ${ring.newest}. To publish another one from a terminal:`
      : "No events yet. Publish one below, or from a terminal:";
    const waits = misses.pending > 0;
    this.#on.pending.hidden = !waits;
    if (waits) {
      this.#on.pendingText.textContent = `${plural(misses.pending, "event")} pending for the next subscriber. Loading them here counts as delivery.`;
    }
    this.#on.connections.replaceChildren(
      ...connections.map((connection) => connectionRow(connection, this.#stream.hello?.connection)),
    );
    this.#on.connectionsMore.textContent =
      total > connections.length ? `The newest ${connections.length} of ${total}.` : "";
    const left = known.last_disconnect;
    this.#on.left.textContent = left
      ? `Last disconnect ${ago(left.at)}, reason: ${left.reason}.`
      : "No connection has closed yet.";
  }

  async #explain() {
    const shown = this.#on.explanation;
    try {
      const found = await ask(`${this.#path}/explain`, { headers: { Accept: "text/plain" } });
      shown.textContent = typeof found === "string" ? found : JSON.stringify(found, null, 2);
    } catch (error) {
      shown.textContent = error.message;
    }
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

  // The page's parts

  #count({ shown, all, held, hasEvents }) {
    this.#on.count.textContent =
      shown === all ? plural(all, "row") : `${shown.toLocaleString("en")} of ${plural(all, "row")}`;
    this.#on.pause.textContent = this.#list?.paused
      ? `Resume${held ? ` (${held.toLocaleString("en")} new)` : ""}`
      : "Pause";
    this.#on.pause.setAttribute("aria-pressed", String(Boolean(this.#list?.paused)));
    this.#on.empty.hidden = hasEvents;
  }

  #build() {
    const on = this.#on;
    on.badge = element(
      "span",
      { class: "badge", id: "badge" },
      element("span", { class: "dot", "aria-hidden": "true" }),
      "Connecting",
    );
    on.reason = element("p", { class: "reason", id: "reason" });
    on.figures = element("dl", { class: "figures" });
    on.pendingText = element("p");
    on.pending = element(
      "div",
      { class: "notice", hidden: true },
      on.pendingText,
      element("button", { onclick: () => this.#readHistory(this.#stream.lastEventId) }, "Load them here"),
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
    on.empty = element(
      "p",
      { class: "blank quiet" },
      on.emptyText,
      element("code", {}, `curl ${new URL(`${this.#path}/events`, base).href} -d '{"data": "hello"}'`),
    );
    on.detail = element("section", { class: "detail", hidden: true, "aria-label": "Selected event" });
    on.connections = element("tbody");
    on.connectionsMore = element("p", { class: "quiet" });
    on.left = element("p", { class: "quiet" });
    on.explanation = element("pre", { class: "explanation", tabindex: "0" }, "…");
    const filter = element("input", {
      type: "search",
      list: "types",
      placeholder: "Filter by type",
      "aria-label": "Filter by type",
      autocomplete: "off",
      oninput: (event) => {
        this.#list.filter = event.target.value.trim();
      },
    });
    return [
      element(
        "header",
        { class: "title" },
        element("a", { class: "back", href: "#/" }, "‹ Projects"),
        element("h1", {}, this.#name),
        on.badge,
        on.reason,
      ),
      on.figures,
      on.pending,
      element(
        "section",
        { class: "stream", "aria-label": "Events" },
        element(
          "div",
          { class: "tools" },
          filter,
          on.types,
          on.pause,
          element("button", { onclick: () => this.#list.clear() }, "Clear"),
          on.count,
        ),
        element("div", { class: "split" }, element("div", { class: "pane" }, this.#list.node, on.empty), on.detail),
      ),
      element(
        "div",
        { class: "forms" },
        publishForm(this.#path, () => this.#refresh()),
        triggerForm(
          () => this.#stream,
          () => this.#refresh(),
        ),
      ),
      element(
        "details",
        { class: "more" },
        element("summary", {}, "Connections"),
        on.left,
        element(
          "div",
          { class: "wide", tabindex: "0", role: "group", "aria-label": "Table of connections" },
          element(
            "table",
            {},
            element(
              "thead",
              {},
              element(
                "tr",
                {},
                ...["Id", "From", "Since", "Last event", "Unacknowledged", "Round trip"].map((head) =>
                  element("th", { scope: "col" }, head),
                ),
              ),
            ),
            on.connections,
          ),
        ),
        on.connectionsMore,
      ),
      element(
        "details",
        { class: "more", ontoggle: (event) => event.target.open && this.#explain() },
        element("summary", {}, "Why was no subscriber connected?"),
        on.explanation,
      ),
    ];
  }
}

function connectionRow(connection, own) {
  const {
    id,
    address,
    since,
    last_event: last,
    unacknowledged_bytes: unacknowledged,
    round_trip_ms: roundTrip,
  } = connection;
  return element(
    "tr",
    {},
    ...[
      id === own ? `${id} (this page)` : id,
      address,
      ago(since),
      last ?? "–",
      size(unacknowledged),
      roundTrip === null ? "–" : `${roundTrip} ms`,
    ].map((cell) => element("td", {}, cell)),
  );
}
