import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";

/**
 * Starts a hub of its own for tests, on a free port, with settings such as `{ EDGE_AUTH_TOKEN: "secret" }`.
 * Resolves to its URL, and a function that ends it.
 */
export async function startHub(settings = {}, command = ["edge", "serve", "--port", "0"]) {
  const [program, ...options] = command;
  const hub = spawn(program, options, { env: { ...process.env, ...settings }, stdio: ["ignore", "pipe", "inherit"] });
  const lines = createInterface(hub.stdout);
  const [line] = await Promise.race([once(lines, "line"), once(hub, "exit")]);
  const url = /^edge: listening on (\S+)/.exec(line)?.[1];
  if (!url) throw new Error(`The hub did not start: ${line}`);
  const stop = async () => {
    hub.kill("SIGKILL");
    await once(hub, "exit");
  };
  return { url, stop };
}
