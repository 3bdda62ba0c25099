// node read.mjs CLIENT URL [CLIENT URL]...: read each stream with that client, as its documentation shows, and write what it
// gives as JSON lines with its place among them as "reader": {"open": true}, {"type", "id", "data"}, {"error"} (and it goes
// on), {"over"} (it has stopped for good).
import { createRequire } from "node:module";
import { createEventSource } from "eventsource-client";
import { EventSource as NpmEventSource } from "eventsource";

const require = createRequire(import.meta.url);
const TYPES = ["message", "note", "edge.hello", "edge.gap", "edge.closing"];

// Standard EventSource and what is made like one: what isn't listened for isn't seen.
function listen(tell, source) {
  source.onopen = () => tell({ open: true });
  for (const type of TYPES) {
    source.addEventListener(type, ({ lastEventId, data }) => tell({ type, id: lastEventId, data }));
  }
  source.onerror = (event) => {
    const error = `${event?.message ?? event?.status ?? "error"}`;
    tell(source.readyState === 2 ? { over: error } : { error });
  };
}

const CLIENTS = {
  eventsource: (url, tell) => listen(tell, new NpmEventSource(url)),

  "event-source-polyfill": (url, tell) => {
    const { EventSourcePolyfill } = require("event-source-polyfill");
    listen(tell, new EventSourcePolyfill(url));
  },

  "eventsource-client": async (url, tell) => {
    const source = createEventSource({ url, onConnect: () => tell({ open: true }) });
    for await (const { event = "message", id = "", data } of source) tell({ type: event, id, data });
    tell({ over: "closed" });
  },

  "fetch-event-source": (url, tell) => {
    // It is made for browsers, and looks whether its page is seen.
    globalThis.window = globalThis;
    globalThis.document ??= { hidden: false, addEventListener() {}, removeEventListener() {} };
    const { fetchEventSource } = require("@microsoft/fetch-event-source");
    // onopen, onclose and onerror are those of its readme.
    fetchEventSource(url, {
      async onopen({ ok, status }) {
        if (!ok) throw Object.assign(new Error(status), { fatal: status >= 400 && status < 500 && status !== 429 });
        tell({ open: true });
      },
      onmessage: ({ event, id, data }) => tell({ type: event || "message", id, data }),
      onclose() {
        throw new Error("closed");
      },
      onerror(error) {
        if (error.fatal) throw error;
        tell({ error: error.message });
      },
    }).catch((error) => tell({ over: error.message }));
  },

  "launchdarkly-eventsource": (url, tell) => {
    const { EventSource } = require("launchdarkly-eventsource");
    const source = new EventSource(url, { initialRetryDelayMillis: 200 });
    source.addEventListener("closed", () => tell({ over: "closed" }));
    listen(tell, source);
  },

  "reconnecting-eventsource": (url, tell) => {
    const { default: ReconnectingEventSource } = require("reconnecting-eventsource");
    listen(tell, new ReconnectingEventSource(url, { eventSourceClass: NpmEventSource, max_retry_time: 200 }));
  },
};

process.stdin.on("end", () => process.exit(0)).resume(); // the test has gone
const pairs = process.argv.slice(2);
for (let at = 0; at < pairs.length; at += 2) {
  CLIENTS[pairs[at]](pairs[at + 1], (seen) => process.stdout.write(`${JSON.stringify({ reader: at / 2, ...seen })}\n`));
}
