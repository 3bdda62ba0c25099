// The events of one project or several: the history at once, then what comes. The page observes, so it counts as nothing; it receives
// only when asked to, over a stream of its own. Whatever comes twice has the same id, and the list keeps one.

import { ProjectStream } from "./edge.js";
import { ask, askForToken, base, token } from "./page-hub.js";
import { CLOSINGS, ESTABLISHED, NOT_ACTIVE, gapText, why } from "./page-words.js";

const PAGE = 1000;

export class Feed {
  #names;
  #add;
  #onState;
  #onReceiving;
  #observer = null;
  #subscriber = null;
  #closed = false;

  /** `add` takes rows; `onState` and `onReceiving` take `{state, reason, waitMs}` of the observer and the subscriber. */
  constructor(names, { add, onState, onReceiving }) {
    this.#names = names;
    this.#add = add;
    this.#onState = onState;
    this.#onReceiving = onReceiving;
    this.#begin();
  }

  close() {
    this.#closed = true;
    this.#observer?.close();
    this.#subscriber?.close();
  }

  async #begin() {
    const histories = await Promise.all(this.#names.map((name) => this.#history(name)));
    if (this.#closed) return;
    const items = histories.flatMap(({ items }) => items);
    this.#add(this.#isOne ? items : items.sort((one, other) => one.at - other.at));
    // Behind the last event of each; a project without one is new to the page, from its first event on.
    const ends = histories.filter(({ last }) => last).map(({ name, last }) => (this.#isOne ? last : `${name}:${last}`));
    this.#observer = this.#open({ since: ends.join() || "all", observe: true }, this.#onState);
  }

  get #isOne() {
    return this.#names.length === 1;
  }

  /** What the hub holds of a project, and the id of its last event. What can't be read now, the stream replays. */
  async #history(name) {
    const items = [];
    let last = "";
    for (;;) {
      let page;
      try {
        const query = new URLSearchParams({ since: last || "all", limit: PAGE });
        page = await ask(`projects/${encodeURIComponent(name)}/history?${query}`);
      } catch {
        return { name, items, last }; // unknown, refused or unreachable: the stream says which
      }
      if (this.#closed || !page.events.length) return { name, items, last };
      for (const { id, type, data, time } of page.events)
        items.push(this.#item({ project: name, name: type, data, id }, new Date(time)));
      last = page.events.at(-1).id;
    }
  }

  #item({ project, name, data, id }, at) {
    return { kind: "event", at, project, name, label: this.#isOne ? name : `${project}/${name}`, data, id };
  }

  #open(options, onState) {
    let closing = null;
    const which = this.#isOne ? { project: this.#names[0] } : { projects: this.#names };
    const stream = new ProjectStream(base, { ...which, token, ...options });
    stream.addEventListener("event", (event) => this.#add([this.#item(event, new Date())]));
    stream.addEventListener("gap", ({ detail }) => {
      const text = this.#isOne ? gapText(detail) : `${detail.project}: ${gapText(detail)}`;
      this.#add([{ kind: "gap", at: new Date(), text, detail }]);
    });
    stream.addEventListener("closing", ({ detail }) => {
      closing = CLOSINGS[detail.reason] ?? detail.reason;
    });
    stream.addEventListener("statechange", async ({ detail: { state, previous, error, waitMs } }) => {
      const reason = state === "open" ? "" : (closing ?? why(error));
      if (state === "open") closing = null;
      if (previous === "open" && error) this.#note(`Connection lost: ${reason}`, "bad");
      onState({ state, reason, waitMs, hello: stream.hello });
      if (state === "closed" && error?.status === 401 && (await askForToken()) && !this.#closed) {
        if (options.observe) this.#begin();
        else this.receive();
      }
    });
    onState({ state: "connecting", reason: "" });
    return stream;
  }

  #note(text, kind = "") {
    this.#add([{ kind: `note ${kind}`, at: new Date(), text }]);
  }

  /** Whether the page itself is a subscriber. */
  get receives() {
    return this.#subscriber !== null;
  }

  /** Becomes a subscriber: pending misses are delivered here, and every event from now on. */
  receive() {
    this.#subscriber?.close();
    this.#subscriber = this.#open({ since: "missed", shared: true }, (change) => {
      if (change.state === "open") {
        console.log(`✅ ${ESTABLISHED}`);
        this.#note(`Receiving as connection ${change.hello.connection}`);
      } else if (change.reason) console.warn(`⚠️ ${NOT_ACTIVE}: ${change.reason}`);
      this.#onReceiving(change);
    });
  }

  stopReceiving() {
    this.#subscriber?.close();
    this.#subscriber = null;
    this.#note("The page observes again");
    this.#onReceiving({ state: "closed", reason: "" });
  }
}
