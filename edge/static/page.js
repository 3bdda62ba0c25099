// The live page: the list of projects at the side, one project in the middle, `#/p/<project>` in the address.

import { byId, element, plural } from "./page-dom.js";
import { ask, askForToken, base } from "./page-hub.js";
import { ProjectView } from "./page-project.js";

const REFRESH_MS = 2000;
const TOAST_MS = 5000;

let view = null;
let shownName = null;
let toasting = 0;

function toast(text, kind) {
  const shown = byId("toast");
  shown.dataset.kind = kind;
  shown.textContent = text;
  shown.classList.add("visible");
  clearTimeout(toasting);
  toasting = setTimeout(() => shown.classList.remove("visible"), TOAST_MS);
}

/** The project in the address, or null. */
function chosen() {
  const found = /^#\/p\/([^/]+)$/.exec(location.hash);
  if (!found) return null;
  try {
    return decodeURIComponent(found[1]);
  } catch {
    return found[1];
  }
}

function route() {
  const name = chosen();
  if (view && name === shownName) return;
  view?.close();
  view = null;
  shownName = name;
  document.body.classList.toggle("in-project", name !== null);
  document.title = name === null ? "edge" : `${name} · edge`;
  if (name === null) welcome();
  else view = new ProjectView(name, byId("main"), toast);
  for (const link of byId("list").querySelectorAll("a")) mark(link);
}

function welcome() {
  const url = new URL("projects/demo", base).href;
  byId("main").replaceChildren(
    element(
      "div",
      { class: "welcome" },
      element("h1", {}, "Choose a project"),
      element(
        "p",
        {},
        "A project exists once it is published to or subscribed to. To create one, run in two terminals:",
      ),
      element(
        "pre",
        { tabindex: "0" },
        `curl -N ${url}/events\n\ncurl ${url}/events -d '{"type": "progress", "data": {"percent": 50}}'`,
      ),
      element("p", {}, "Or ", element("a", { href: "#/p/demo" }, "open demo"), " here and publish from the page."),
    ),
  );
}

function mark(link) {
  if (link.dataset.name === shownName) link.setAttribute("aria-current", "page");
  else link.removeAttribute("aria-current");
}

function entry({ project, connections, ring, misses }) {
  const figures = [plural(connections, "connection"), `${plural(ring.events, "event")} held`];
  const missed = [];
  if (misses.pending) missed.push(element("span", { class: "warn" }, `${misses.pending.toLocaleString("en")} pending`));
  if (misses.lost) missed.push(element("span", { class: "bad" }, `${misses.lost.toLocaleString("en")} lost`));
  if (misses.recovered)
    missed.push(element("span", { class: "good" }, `${misses.recovered.toLocaleString("en")} recovered`));
  const link = element(
    "a",
    { href: `#/p/${encodeURIComponent(project)}`, "data-name": project },
    element(
      "span",
      { class: "name" },
      element("span", { class: `dot ${connections ? "on" : ""}`, "aria-hidden": "true" }),
      project,
    ),
    element("span", { class: "facts" }, figures.join(" · ")),
    missed.length > 0 && element("span", { class: "facts" }, ...missed),
  );
  mark(link);
  return element("li", {}, link);
}

let drawn = "";

function draw({ projects, total }) {
  byId("hub").textContent = plural(total, "project");
  byId("list-note").textContent =
    total > projects.length ? `The ${projects.length} busiest projects.` : total ? "" : "No projects yet.";
  const now = JSON.stringify(projects);
  if (now === drawn) return; // focus and selection stay where they are
  drawn = now;
  const focused = document.activeElement?.closest?.("#list a")?.dataset.name;
  byId("list").replaceChildren(...projects.map(entry));
  if (focused) [...byId("list").querySelectorAll("a")].find((link) => link.dataset.name === focused)?.focus();
}

async function refreshList() {
  const hub = byId("hub");
  try {
    draw(await ask("projects"));
    hub.classList.remove("bad");
  } catch (error) {
    if (error.status === 401) {
      await askForToken();
      return refreshList();
    }
    hub.textContent = error.message;
    hub.classList.add("bad");
  }
}

// A token for one project has no access to the list, only to that project.
const refresh = () => Promise.all([refreshList(), view?.refresh()]);

/** Refreshes one after another, never two at once, and not while the page is hidden. */
async function watch() {
  for (;;) {
    if (!document.hidden) await refresh();
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, REFRESH_MS);
      document.addEventListener(
        "visibilitychange",
        () => {
          clearTimeout(timer);
          resolve();
        },
        { once: true },
      );
    });
  }
}

byId("open").addEventListener("submit", (event) => {
  event.preventDefault();
  location.hash = `#/p/${encodeURIComponent(byId("open-name").value.trim())}`;
  byId("open-name").value = "";
});
addEventListener("hashchange", route);
route();
watch();
