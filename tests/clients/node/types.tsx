// Uses every export of the package; compiled with each kind of module resolution.
import { EdgeError, ProjectStream } from "edge-hub";
import { useProjectStream } from "edge-hub/react";
import { Hub, verifyWebhook, type Job, type ProblemCode, type Receipt } from "edge-hub/server";
import { FakeHub } from "edge-hub/testing";

export async function serve(signal: AbortSignal) {
  const hub = new Hub({ url: new URL("http://hub:8080"), token: async () => "t", retries: 1, timeout: 1000 });
  const receipt: Receipt = await hub.publish("p", { type: "progress", data: { percent: 1 } }, { final: true, wait: 3000, signal });
  const ids: string[] = (await hub.publish(["p", "q"], { data: 1 })).receipts.map(({ id }) => id);
  async function* tokens() {
    yield { type: "token", data: "a" };
  }
  const first: string | null = (await hub.publishMany("p", tokens(), { final: true })).first_id;
  const lost: number | undefined = (await hub.status()).projects[0]?.misses.lost;
  const events: number = (await hub.status("p")).ring.events;
  const texts: string[] = (await hub.history("p", { since: "all", limit: 10 })).events.map(({ data }) => data);
  const { id } = await hub.trigger("p", "job", { a: 1 }, { confirm: "client", on_timeout: "dispatch" });
  // @ts-expect-error a type is a string
  await hub.publish("p", { type: 3, data: 1 });
  // @ts-expect-error no such option
  await hub.trigger("p", "job", null, { wait: 3 });
  const job: Job<{ a: number }> = await verifyWebhook<Job<{ a: number }>>(["new", "old"], new Headers(), "{}");
  try {
    await hub.ticket("p");
  } catch (error) {
    const code: ProblemCode = "no_connection";
    if (error instanceof EdgeError && error.code === code) console.error(error.status, error.problem?.detail);
  }
  return [receipt, ids, first, lost, events, texts, id, job.data.a];
}

export function fake(): ProjectStream {
  const hub = new FakeHub({ onJob: ({ project, name }) => hub.publish(project, { type: name, data: null }) }).install();
  hub.refuse(503, "draining");
  // @ts-expect-error no such code
  hub.refuse(503, "mistyped");
  return new ProjectStream("/", { project: "p", credentials: "include" });
}

export function Page({ project }: { project: string | null }) {
  const stream = useProjectStream(project, {
    since: "all",
    ticket: async () => "t",
    on: { progress: (event) => console.log(event.id, event.json.percent) },
    onGap: ({ lost, reason }) => console.log(lost, reason),
  });
  const several = useProjectStream(["p", "q"], { ticket: async (one) => `ticket of ${one}` });
  const start = async () => {
    await several.trigger("job", null, { project: "q" });
    await stream.ready({ timeout: 1000 });
    const { dispatched } = await stream.trigger("job", { a: 1 }, { timeout: 3000 });
    return dispatched;
  };
  return (
    <button onClick={start} disabled={!stream.isConnected}>
      {stream.state} {stream.error?.code} {stream.waitMs} {stream.gap?.lost}
    </button>
  );
}
