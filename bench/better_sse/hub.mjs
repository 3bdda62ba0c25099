// A hub out of better-sse, as its documentation has it: a channel for each project. `node hub.mjs PORT`.
import { createServer } from "node:http";
import { createChannel, createSession } from "better-sse";

const channels = new Map();
const channel = (name) => channels.get(name) ?? channels.set(name, createChannel()).get(name);

createServer(async (request, response) => {
  const [, what, name] = request.url.split("/");
  if (what === "sub") {
    channel(name).register(await createSession(request, response, { keepAlive: null }));
    return;
  }
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  channel(name).broadcast(Buffer.concat(pieces).toString());
  response.writeHead(202, { "Content-Length": 0 }).end();
}).listen(Number(process.argv[2]), "127.0.0.1");
