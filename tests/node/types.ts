// Compiled, never run: what edge.d.ts lets through and what it doesn't.
import {
  EdgeError,
  EventStreamParser,
  ProjectEvent,
  ProjectStream,
  type Gap,
  type StreamState,
} from "../../edge/static/edge.js";

const stream = new ProjectStream("http://127.0.0.1:8080", {
  project: "p",
  shared: true,
  since: "10m",
  token: async () => "t",
});
new ProjectStream(new URL("http://127.0.0.1:8080"), { project: "p", ticket: "once", credentials: "include" });
new ProjectStream("/", { projects: ["a", "b"], ticket: async (project) => `ticket of ${project}` });
// @ts-expect-error either one project or several
new ProjectStream("/", { project: "a", projects: ["b"] });

stream.addEventListener("statechange", ({ detail }) => {
  const state: StreamState = detail.state;
  const error: EdgeError | null = detail.error;
  // @ts-expect-error there is no such state
  if (state === "opened") console.log(error);
});
stream.addEventListener("gap", ({ detail }) => {
  const gap: Gap = detail;
  console.log(gap.lost?.toFixed());
});
stream.addEventListener("progress", (event) => {
  const shown: [string, string, string, number] = [event.name, event.id, event.data, event.json.percent];
  // @ts-expect-error data is text
  console.log(shown, event.data.percent);
});
stream.addEventListener("closing", ({ detail }) => console.log(detail.retry_ms + 1), { once: true });

const waiting: Promise<void> = stream.ready({ timeout: 100 });
stream.trigger("job", { any: ["json"] }, { timeout: 1000, id: "j", confirm: "client" }).then(
  (receipt) => console.log(receipt.waited_ms + receipt.connections, waiting),
  (error: EdgeError) => console.log(error.code, error.status, error.key, error.problem?.detail),
);
// @ts-expect-error a state can't be set
stream.state = "open";
// @ts-expect-error a project is needed
new ProjectStream("http://127.0.0.1:8080", {});
// @ts-expect-error not a choice
stream.trigger("job", 1, { on_timeout: "retry" });
stream.close();

console.log(
  new EventStreamParser().push(new Uint8Array())[0]?.name,
  new ProjectEvent("x", { name: "x", data: "1", id: "e-1" }).json,
);
