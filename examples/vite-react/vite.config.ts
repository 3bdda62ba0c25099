import { defineConfig } from "vite";

const hub = process.env.EDGE_URL ?? "http://127.0.0.1:8080";

// The hub has the page's origin, in development by this proxy, in production by yours: no CORS, and cookies reach it.
export default defineConfig({
  server: { proxy: { "/hub": { target: hub, rewrite: (path) => path.replace(/^\/hub/, "") } } },
});
