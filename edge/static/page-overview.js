// The overview: the hub's totals, and the projects that lose events.

import { EdgeError } from "./edge.js";
import { byId, clock, drawing, duration, element, figure, number, plural, size, table, time } from "./page-dom.js";
import { ask, base, curlToken } from "./page-hub.js";
import { linkTo, pauseMs } from "./page-list.js";

const SAMPLES = 60;
const WORST = 8;

export class Overview {
  #status = null;
  #samples = []; // [milliseconds, published, delivered]
  #worstFor = ""; // the totals of misses that the table was made for
  #worstNotBefore = 0;
  #on = {};

  constructor(root, note) {
    const on = this.#on;
    on.figures = element("dl", { class: "figures" });
    on.hub = element("dl", { class: "figures" });
    on.line = drawing("polyline", { class: "curve" });
    on.rate = drawing(
      "svg",
      { viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img", class: "chart" },
      on.line,
    );
    on.rateText = element("p", { class: "quiet" });
    on.chart = element(
      "section",
      { class: "card", hidden: true },
      element("h2", {}, "Events published"),
      on.rate,
      on.rateText,
    );
    on.worst = element("section", { class: "card worst", hidden: true });
    on.start = element("section", { class: "card", hidden: true }, ...firstSteps());
    root.replaceChildren(
      element("h1", {}, "Overview"),
      ...(note ? [element("p", { class: "notice good", role: "status" }, note)] : []),
      on.figures,
      on.hub,
      on.start,
      on.worst,
      on.chart,
    );
  }

  close() {}

  /** Called periodically with the hub's totals. */
  async refresh(status) {
    if (!status) return;
    if (this.#status?.started !== status.started) this.#samples = [];
    this.#status = status;
    this.#samples.push([performance.now(), status.published, status.delivered]);
    this.#samples.splice(0, this.#samples.length - SAMPLES - 1);
    this.#draw(status);
    try {
      await this.#worst(status);
    } catch (error) {
      if (!(error instanceof EdgeError)) throw error;
      this.#worstFor = ""; // again with the next totals; if the hub is gone, the bar will say so
    }
  }

  #rate(column) {
    const samples = this.#samples;
    if (samples.length < 2) return null;
    const [before, now] = samples.slice(-2);
    return ((now[column] - before[column]) * 1000) / (now[0] - before[0]);
  }

  #draw(status) {
    const { misses, ring, store, triggers, memory_bytes: memory } = status;
    const published = this.#rate(1);
    const perSecond = (rate) =>
      rate === null ? "…" : rate < 10 ? rate.toFixed(1).replace(".0", "") : number(Math.round(rate));
    const other = triggers.no_connection + triggers.failed;
    this.#on.figures.replaceChildren(
      figure(
        "Connections",
        status.connections,
        status.observers ? `and ${plural(status.observers, "observer")}` : "open now",
      ),
      figure("Events/s", perSecond(published), `${perSecond(this.#rate(2))} delivered`),
      figure("Missed", misses.total, `${number(misses.recovered)} recovered`),
      figure(
        "Pending",
        misses.pending,
        misses.pending ? `oldest ${duration(misses.oldest_pending_seconds ?? 0)}` : "no event waits",
        "some-warn",
      ),
      figure("Lost", misses.lost, "undelivered", "some-bad"),
      figure(
        "Triggers",
        triggers.dispatched,
        other ? `${number(triggers.no_connection)} no connection, ${number(triggers.failed)} failed` : "dispatched",
        other ? "some-warn" : "",
      ),
    );
    const state = status.draining
      ? ["Draining", "shutting down", "some-warn"]
      : ["Serving", `version ${status.version}`, ""];
    this.#on.hub.replaceChildren(
      figure("Hub", ...state),
      figure(
        "Uptime",
        duration(status.uptime_seconds),
        time(status.started, "since ", (date) => clock(date).slice(0, -4)),
      ),
      figure("Projects", status.projects, `of at most ${number(status.max_projects)}`),
      figure("History", size(ring.bytes), `of at most ${size(ring.max_bytes)}`),
      figure("Memory", memory === null ? "–" : size(memory), "resident"),
      figure(
        "Store",
        store.available ? "Available" : "Unavailable",
        store.problem ?? (store.errors ? plural(store.errors, "failed write") : "no failed writes"),
        store.available ? (store.errors ? "some-warn" : "") : "some-bad",
      ),
    );
    this.#on.start.hidden = status.projects > 0;
    this.#curve();
  }

  #curve() {
    const samples = this.#samples;

    const rates = samples.slice(1).map((now, at) => (now[1] - samples[at][1]) / ((now[0] - samples[at][0]) / 1000));
    this.#on.chart.hidden = !rates.some((rate) => rate > 0);
    const most = Math.max(...rates, 1);
    const points = rates.map((rate, at) => `${(100 * at) / Math.max(1, rates.length - 1)},${29 - (28 * rate) / most}`);
    this.#on.line.setAttribute("points", points.join(" "));
    const span = duration((samples.at(-1)[0] - samples[0][0]) / 1000);
    this.#on.rateText.textContent = `The last ${span}, at most ${number(Math.ceil(Math.max(...rates, 0)))} a second.`;
    this.#on.rate.setAttribute("aria-label", this.#on.rateText.textContent);
  }

  /** The projects with most lost and most pending events: asked for when the totals have changed. */
  async #worst({ misses, projects }) {
    const totals = `${misses.lost} ${misses.pending}`;
    const now = performance.now();
    if (totals === this.#worstFor || now < this.#worstNotBefore) return;
    this.#worstFor = totals;
    const asked = ["lost", "pending"].filter((kind) => misses[kind]);
    const pages = await Promise.all(
      asked.map((sort) => ask(`projects?${new URLSearchParams({ sort, limit: WORST })}`)),
    );
    this.#worstNotBefore = performance.now() + pauseMs(projects, performance.now() - now);
    const found = new Map(pages.flatMap(({ projects }) => projects).map((one) => [one.project, one]));
    const worst = [...found.values()].filter(({ misses: { lost, pending } }) => lost || pending).slice(0, WORST);
    this.#on.worst.hidden = false;
    this.#on.worst.replaceChildren(
      element("h2", {}, "Projects with pending or lost events"),
      worst.length
        ? table(
            ["Project", "Pending", "Lost", "Missed", "Connections", "Events held"],
            worst.map(({ project, connections, ring, misses: { pending, lost, total } }) => [
              element("a", { href: linkTo(project) }, project),
              colored(pending, "warn"),
              colored(lost, "bad"),
              number(total),
              number(connections),
              number(ring.events),
            ]),
          )
        : element("p", { class: "quiet" }, "None: every event has been delivered."),
      ...(worst.length === WORST ? [moreOf(misses)] : []),
    );
  }
}

/** What sorts the list of projects by what the table shows the beginning of. */
const moreOf = ({ pending }) =>
  element(
    "p",
    {},
    element(
      "button",
      {
        onclick: () => {
          const sort = byId("sort");
          sort.value = pending ? "pending" : "lost";
          sort.dispatchEvent(new Event("input"));
          sort.scrollIntoView({ block: "nearest" });
          sort.focus();
        },
      },
      pending ? "Sort all projects by pending misses" : "Sort all projects by lost events",
    ),
  );

const colored = (count, kind) => element("span", { class: count ? kind : "quiet" }, number(count));

function firstSteps() {
  const url = new URL("projects/demo/events", base).href;
  const who = curlToken();
  return [
    element("h2", {}, "First steps"),
    element(
      "p",
      {},
      "A project exists once it is published to or subscribed to. Subscribe in one terminal, publish in another:",
    ),
    element(
      "pre",
      { tabindex: "0", class: "code" },
      `curl -N${who} ${url}\n\ncurl${who} ${url} -d '{"type": "progress", "data": {"percent": 50}}'`,
    ),
    element("p", {}, "Or ", element("a", { href: linkTo("demo") }, "open demo"), " here and publish from the page."),
  ];
}
