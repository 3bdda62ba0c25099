// The live page: the list of projects at the side; in the middle the overview, or the project in the address
// (`#/p/<project>`), or several (`#/p/<project>,<project>`).

import { EdgeError } from "./edge.js";
import { byId, clock } from "./page-dom.js";
import { ask, askForToken, showSign, token } from "./page-hub.js";
import { ProjectList } from "./page-list.js";
import { Overview } from "./page-overview.js";
import { ProjectView } from "./page-project.js";
import { SeveralView } from "./page-several.js";

const REFRESH_MS = 2000;

const list = new ProjectList(() => refreshHub());
let view = null;
let shown; // the project in the middle, null for the overview
let status = null; // the hub's totals, as they came last
let note = ""; // what the overview is to say once
let seenAt = new Date(); // when the hub answered last
let refused = false; // by a token without the permission to see the hub

/** The project in the address, several with commas between them, or null. */
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
  if (view && name === shown) return;
  view?.close();
  shown = name;
  document.body.classList.toggle("in-project", name !== null);
  document.title = name === null ? "edge" : `${name} · edge`;
  const names = name?.split(",") ?? [];
  if (!names.length) view = new Overview(byId("main"), note);
  else if (names.length > 1) view = new SeveralView(names, byId("main"));
  else view = new ProjectView(name, byId("main"), deleted);
  note = "";
  list.choose(name);
  view.refresh(status);
}

function deleted(text) {
  note = text;
  location.hash = "#/";
}

/** What the bar says about the hub; `isOld`: everything on the page is from before. */
function say(text, isOld = false) {
  if (isOld && document.body.classList.contains("stale")) return;
  document.body.classList.toggle("stale", isOld);
  byId("hub").textContent = text;
  byId("hub").classList.toggle("bad", Boolean(text));
}

async function refreshHub() {
  if (refused) return;
  try {
    [status] = await Promise.all([ask("status"), list.refresh(status?.projects ?? 0)]);
    seenAt = new Date();
    say(status.draining ? "The hub is shutting down." : "");
  } catch (error) {
    if (!(error instanceof EdgeError)) throw error;
    if (error.status === 401 && (await askForToken())) return refreshHub();
    refused = error.status === 401 || error.status === 403; // asking again can't help: signing in reloads the page
    status = null;
    if (error.code === "network")
      say(`The hub can't be reached. What you see is from ${clock(seenAt).slice(0, -4)}.`, true);
    else say(error.status === 401 ? "Sign in to see this hub." : error.message);
  }
  showSign(refused);
}

/** Refreshes one after another, never two at once, and not while the page is hidden. */
async function watch() {
  for (;;) {
    if (!document.hidden) {
      await refreshHub();
      await view.refresh(status);
    }
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, REFRESH_MS);
      const again = () => {
        clearTimeout(timer);
        resolve();
      };
      document.addEventListener("visibilitychange", again, { once: true });
    });
  }
}

byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address names the project
  byId("main").focus();
});
ask("metrics", { method: "HEAD" }).then(
  () => {
    byId("metrics").hidden = Boolean(token()); // a link carries no token
  },
  () => {}, // they are served elsewhere, or not to everybody: there is nothing to link to
);
addEventListener("hashchange", () => {
  route();
  scrollTo(0, 0);
  byId("main").focus({ preventScroll: true }); // a screen reader goes on there
});
route();
watch();
