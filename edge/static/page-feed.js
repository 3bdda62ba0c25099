// One project's events: its history at once, then what comes. The page observes, so it counts as nothing; it receives
// only when asked to, over a stream of its own. Whatever comes twice has the same id, and the list keeps one.

import { ProjectStream } from "./edge.js";
import { ask, askForToken, base, token } from "./page-hub.js";
import { CLOSINGS, ESTABLISHED, NOT_ACTIVE, gapText, why } from "./page-words.js";

const PAGE = 1000;

export class Feed {
  #name;
  #add;
  #onState;
  #onReceiving;
  #observer = null;
  #subscriber = null;
  #closed = false;

  /** `add` takes rows; `onState` and `onReceiving` take `{state, reason, waitMs}` of the observer and the subscriber. */
  constructor(name, { add, onState, onReceiving }) {
    this.#name = name;
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
    const last = await this.#history();
    if (this.#closed) return;
    this.#observer = this.#open({ since: last || "all", observe: true }, this.#onState);
  }

  /** Adds what the hub holds; returns the id of the last event. What can't be read now, the stream replays. */
  async #history() {
    let since = "all";
    for (;;) {
      let page;
      try {
        page = await ask(
          `projects/${encodeURIComponent(this.#name)}/history?${new URLSearchParams({ since, limit: PAGE })}`,
        );
      } catch {
        return since === "all" ? "" : since; // unknown, refused or unreachable: the stream says which
      }
      if (this.#closed || !page.events.length) return since === "all" ? "" : since;
      this.#add(
        page.events.map(({ id, type, data, time }) => ({ kind: "event", at: new Date(time), name: type, data, id })),
      );
      since = page.events.at(-1).id;
    }
  }

  #open(options, onState) {
    let closing = null;
    const stream = new ProjectStream(base, { project: this.#name, token, ...options });
    stream.addEventListener("event", ({ name, data, id }) =>
      this.#add([{ kind: "event", at: new Date(), name, data, id }]),
    );
    stream.addEventListener("gap", ({ detail }) =>
      this.#add([{ kind: "gap", at: new Date(), text: gapText(detail), detail }]),
    );
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
