// The projects at the side: found as one types, sorted, page by page.

import { byId, element, plural } from "./page-dom.js";
import { ask } from "./page-hub.js";

const PAGE = 50;
const CHEAP = 2000; // the hub looks at every project to sort them; so many take it about two milliseconds
const SHARE = 20; // of more it is asked less often: lists take at most a twentieth of the hub's time
const MAX_WAIT_MS = 30_000;
const TYPING_MS = 150;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._~-]{0,127}$/;

/** How long to leave a hub with so many `projects` alone after a list that took it `tookMs`. */
export const pauseMs = (projects, tookMs) => (projects > CHEAP ? Math.min(tookMs * SHARE, MAX_WAIT_MS) : 0);

/** The address of one project, or of several on one page. */
export const linkTo = (...projects) => `#/p/${projects.map(encodeURIComponent).join()}`;

export class ProjectList {
  #offset = 0;
  #shown = null;
  #drawn = "";
  #notBefore = 0;
  #asked = 0;
  #onChange;

  /** `onChange` is called when the person wants to see another page: it is to call `refresh`. */
  constructor(onChange) {
    this.#onChange = onChange;
    byId("find").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.#named) return;
      location.hash = linkTo(...this.#typed);
      byId("name").value = "";
      this.#changed();
    });
    byId("sort").addEventListener("input", () => this.#changed());
    let typing = 0;
    byId("name").addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.#changed(), TYPING_MS);
    });
    byId("before").addEventListener("click", () => this.#changed(this.#offset - PAGE));
    byId("after").addEventListener("click", () => this.#changed(this.#offset + PAGE));
  }

  /** The names in the field; the last one may be a part of a name. */
  get #typed() {
    return byId("name")
      .value.split(/[\s,]+/)
      .filter(Boolean);
  }

  get #named() {
    return this.#typed.length > 0 && this.#typed.every((name) => NAME.test(name));
  }

  #changed(offset = 0) {
    this.#offset = Math.max(0, offset);
    this.#notBefore = 0;
    this.#onChange();
  }

  /** Marks the project that is shown in the middle. */
  choose(project) {
    this.#shown = project;
    for (const link of byId("list").querySelectorAll("a")) this.#mark(link);
  }

  /** Asks for the page again, unless that would cost a hub of so many projects too much; rejects with an EdgeError. */
  async refresh(projects) {
    const began = performance.now();
    if (began < this.#notBefore) return;
    const number = ++this.#asked;
    const query = new URLSearchParams({ limit: PAGE, offset: this.#offset, sort: byId("sort").value });
    const match = this.#typed.at(-1) ?? "";
    if (match) query.set("match", match);
    const page = await ask(`projects?${query}`);
    if (number !== this.#asked) return; // a later question is under way
    this.#notBefore = performance.now() + pauseMs(projects, performance.now() - began);
    this.#draw(page, match);
  }

  #draw({ projects, total }, match) {
    const typed = this.#typed;
    const now = JSON.stringify([projects, total, typed, this.#offset]);
    if (now === this.#drawn) return; // focus and selection stay where they are
    this.#drawn = now;
    const focused = document.activeElement?.closest?.("#list a")?.dataset.name;
    const entries = projects.map((project) => this.#entry(project));
    if (this.#named && (typed.length > 1 || !projects.some(({ project }) => project === match)))
      entries.unshift(this.#offer(typed));
    byId("list").replaceChildren(...entries);
    if (focused) [...byId("list").querySelectorAll("a")].find((link) => link.dataset.name === focused)?.focus();
    const last = this.#offset + projects.length;
    byId("pages").hidden = !this.#offset && total <= PAGE;
    byId("place").textContent =
      `${(this.#offset + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${total.toLocaleString("en")}`;
    byId("before").disabled = !this.#offset;
    byId("after").disabled = last >= total;
    byId("list-note").textContent = total
      ? match && plural(total, "project found", "projects found")
      : match
        ? "No project has that in its name."
        : "No projects yet.";
  }

  #offer(names) {
    const link = element("a", { href: linkTo(...names), class: "offer" }, "Open ", element("b", {}, names.join(", ")));
    return element("li", {}, link);
  }

  #entry({ project, connections, ring, misses }) {
    const figures = `${plural(connections, "connection")} · ${plural(ring.events, "event")} held`;
    const missed = [
      ["warn", misses.pending, "pending"],
      ["bad", misses.lost, "lost"],
    ].filter(([, count]) => count);
    const link = element(
      "a",
      { href: linkTo(project), "data-name": project },
      element(
        "span",
        { class: "name" },
        element("span", { class: `dot ${connections ? "on" : ""}`, "aria-hidden": "true" }),
        element("span", {}, project),
      ),
      element("span", { class: "facts" }, figures),
      missed.length > 0 &&
        element(
          "span",
          { class: "facts" },
          ...missed.map(([kind, count, what]) =>
            element("span", { class: kind }, `${count.toLocaleString("en")} ${what}`),
          ),
        ),
    );
    this.#mark(link);
    return element("li", {}, link);
  }

  #mark(link) {
    if (link.dataset.name && link.dataset.name === this.#shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}
