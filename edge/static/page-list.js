// The projects at the side: found as one types, sorted, page by page.

import { byId, element, plural } from "./page-dom.js";
import { ask } from "./page-hub.js";

const PAGE = 50;
const SHARE = 20; // a list that took the hub long to make is asked for less often: at most a twentieth of its time
const MAX_WAIT_MS = 30_000;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._~-]{0,127}$/;

export const linkTo = (project) => `#/p/${encodeURIComponent(project)}`;

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
      if (!NAME.test(this.#typed)) return;
      location.hash = linkTo(this.#typed);
      byId("name").value = "";
      this.#changed();
    });
    for (const id of ["name", "sort"]) byId(id).addEventListener("input", () => this.#changed());
    byId("before").addEventListener("click", () => this.#changed(this.#offset - PAGE));
    byId("after").addEventListener("click", () => this.#changed(this.#offset + PAGE));
  }

  get #typed() {
    return byId("name").value.trim();
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

  /** Asks for the page again, unless that would cost the hub too much; rejects with an EdgeError. */
  async refresh() {
    const began = performance.now();
    if (began < this.#notBefore) return;
    const number = ++this.#asked;
    const query = new URLSearchParams({ limit: PAGE, offset: this.#offset, sort: byId("sort").value });
    const match = this.#typed;
    if (match) query.set("match", match);
    const page = await ask(`projects?${query}`);
    if (number !== this.#asked) return; // a later question is under way
    const took = performance.now() - began;
    this.#notBefore = performance.now() + Math.min(took * SHARE, MAX_WAIT_MS);
    this.#draw(page, match);
  }

  #draw({ projects, total }, match) {
    const now = JSON.stringify([projects, total, match, this.#offset]);
    if (now === this.#drawn) return; // focus and selection stay where they are
    this.#drawn = now;
    const focused = document.activeElement?.closest?.("#list a")?.dataset.name;
    const entries = projects.map((project) => this.#entry(project));
    if (NAME.test(match) && !projects.some(({ project }) => project === match)) entries.push(this.#offer(match));
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

  #offer(name) {
    return element("li", {}, element("a", { href: linkTo(name), class: "offer" }, "Open ", element("b", {}, name)));
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
