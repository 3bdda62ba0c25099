// node generated.ts URL: use the types that openapi-typescript has made of the hub's document.
import type { components, paths } from "./hub.ts";

type Schemas = components["schemas"];
type Body<Path extends "/projects/{project}/events" | "/projects/{project}/trigger"> =
  paths[Path]["post"]["requestBody"]["content"]["application/json"];

declare const process: { argv: string[] };
const url = process.argv[2];

async function post<Answer>(project: string, what: string, body: unknown): Promise<Answer> {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(`${url}/projects/${project}/${what}`, { method: "POST", headers, body: JSON.stringify(body) });
  return (await response.json()) as Answer;
}

const event: Body<"/projects/{project}/events"> = { type: "message", data: "from a generated client" };
const job: Body<"/projects/{project}/trigger"> = { name: "job", data: { prompt: "hello" } };
const receipt = await post<Schemas["Receipt"]>("p", "events", event);
const ready = (await (await fetch(`${url}/projects/p/ready?timeout=3s`)).json()) as Schemas["Ready"];
const started = await post<Schemas["Triggered"]>("p", "trigger", job);
const refused = await post<Schemas["Problem"]>("!", "events", event);
const dispatched: true = started.dispatched;
console.log(
  JSON.stringify({ connections: receipt.connections, ready: ready.ready, dispatched, refused: refused.code }),
);
