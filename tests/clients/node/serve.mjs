// node serve.mjs NAME PORT HUB: a server as people develop with, which passes /projects on to HUB.
const [name, port, target] = process.argv.slice(2);
const host = "127.0.0.1";

const SERVERS = {
  async express() {
    const [{ default: express }, { default: compression }, { createProxyMiddleware }] = await Promise.all([
      import("express"),
      import("compression"),
      import("http-proxy-middleware"),
    ]);
    const app = express();
    app.use(compression());
    const on = name === "express" ? {} : { proxyRes: (response) => delete response.headers["cache-control"] };
    app.use(createProxyMiddleware({ target, pathFilter: ["/projects", "/healthz"], on }));
    app.listen(port, host);
  },

  "express-without-no-transform": () => SERVERS.express(),

  async vite() {
    const { createServer } = await import("vite");
    const proxy = { "/projects": target };
    await (await createServer({ configFile: false, server: { host, port, proxy, watch: null } })).listen();
  },

  async webpack() {
    const [{ default: webpack }, { default: WebpackDevServer }] = await Promise.all([
      import("webpack"),
      import("webpack-dev-server"),
    ]);
    const compiler = webpack({ mode: "development", entry: "data:text/javascript,", stats: "none" });
    const proxy = [
      { context: ["/projects"], target },
      { context: ["/hub"], target, pathRewrite: { "^/hub": "" } },
    ];
    await new WebpackDevServer({ host, port, proxy }, compiler).start();
  },
};

process.stdin.on("end", () => process.exit(0)).resume(); // the test has gone
await SERVERS[name]();
