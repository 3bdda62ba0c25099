// The list of events: bounded in memory, and in the document no more rows than can be seen.
//
// Every row has the same height, so a row's place is its number, and ten thousand rows are one tall box with forty
// elements in it. Drawing happens once a frame, however many events came in between.

import { clock, element, utc } from "./page-dom.js";
import { restartText } from "./page-words.js";

const ROW_PX = 34; // as in page.css
const SPARE_ROWS = 8;
const MOST_ITEMS = 10_000;
const MOST_CHARS = 32 * 1024 * 1024;
const PREVIEW_CHARS = 400;
const HUES = 6;

export class EventList {
  #items = [];
  #shown = [];
  #held = [];
  #chars = 0;
  #first = 0; // how many rows there have been: a row's id stays the same
  #type = "";
  #text = "";
  #ids = new Set();
  #newest = new Map(); // the last event of each project
  #paused = false;
  #chosen = null;
  #drawing = 0;
  #follow = true;
  #box;
  #tall;
  #onChoose;
  #onCount;

  constructor({ onChoose, onCount }) {
    this.#onChoose = onChoose;
    this.#onCount = onCount;
    this.#tall = element("div", { class: "tall", role: "none" });
    this.#box = element(
      "div",
      {
        class: "events",
        role: "listbox",
        tabindex: "0",
        "aria-label": "Events",
        onscroll: () => this.#scrolled(),
        onkeydown: (event) => this.#key(event),
        onclick: (event) => this.#clicked(event),
      },
      this.#tall,
    );
    new ResizeObserver(() => this.#draw()).observe(this.#box);
  }

  get node() {
    return this.#box;
  }

  get paused() {
    return this.#paused;
  }

  set paused(paused) {
    this.#paused = paused;
    if (!paused) this.#take(this.#held.splice(0));
    this.#count();
  }

  /** Shows only events with `type` in their type and `text` in their data; gaps and notes always. */
  filter({ type = this.#type, text = this.#text }) {
    this.#type = type.toLowerCase();
    this.#text = text.toLowerCase();
    this.#shown = this.#items.filter((item) => this.#passes(item));
    this.#count();
    this.#draw();
  }

  /** The shown events as NDJSON. */
  ndjson() {
    const events = this.#shown.filter(({ kind }) => kind === "event");
    return events.map(
      ({ project, id, name, data, at }) =>
        `${JSON.stringify({ project, id, type: name, data, time: at.toISOString() })}\n`,
    );
  }

  /** Adds rows; an event that is here already is left out. */
  add(items) {
    if (this.#paused) {
      this.#held.push(...items);
      if (this.#held.length > MOST_ITEMS) this.#held.splice(0, this.#held.length - MOST_ITEMS);
    } else this.#take(items);
    this.#count();
  }

  clear() {
    this.#items = [];
    this.#shown = [];
    this.#held = [];
    this.#ids.clear();
    this.#chars = 0;
    this.#choose(null);
    this.#count();
    this.#draw();
  }

  #passes(item) {
    if (item.kind !== "event") return true;
    return (
      (!this.#type || item.label.toLowerCase().includes(this.#type)) &&
      (!this.#text || item.data.toLowerCase().includes(this.#text))
    );
  }

  #take(items) {
    for (const item of items) {
      if (item.kind === "event") {
        if (this.#ids.has(item.id)) continue;
        this.#ids.add(item.id);
        this.#markRestart(item);
        this.#newest.set(item.project, item);
      }
      this.#push(item);
    }
    this.#trim();
    this.#draw();
  }

  #push(item) {
    item.number = ++this.#first;
    this.#chars += item.data?.length ?? 0;
    this.#items.push(item);
    if (this.#passes(item)) this.#shown.push(item);
  }

  /** Ids of another epoch than those before: a row says so, unless a gap has. */
  #markRestart({ project, id, at }) {
    const newest = this.#newest.get(project);
    if (!newest || this.#items.at(-1)?.detail?.reason === "restart") return;
    const [epoch, seq] = id.split("-");
    const [lastEpoch, lastSeq] = newest.id.split("-");
    if (epoch !== lastEpoch) this.#push({ kind: "note restart", at, text: restartText(Number(seq) > Number(lastSeq)) });
  }

  #trim() {
    let gone = Math.max(0, this.#items.length - MOST_ITEMS);
    for (let i = 0; i < gone; i += 1) this.#chars -= this.#items[i].data?.length ?? 0;
    while (this.#chars > MOST_CHARS && gone < this.#items.length - 1)
      this.#chars -= this.#items[gone++].data?.length ?? 0;
    if (!gone) return;
    const dropped = new Set(this.#items.splice(0, gone));
    for (const { id } of dropped) this.#ids.delete(id);
    let unseen = 0;
    while (dropped.has(this.#shown[unseen])) unseen += 1;
    this.#shown.splice(0, unseen);
    // What is being read stays where it is, though rows above it went.
    if (!this.#follow) this.#box.scrollTop -= unseen * ROW_PX;
  }

  #count() {
    const hasEvents = this.#items.some((item) => item.kind === "event");
    this.#onCount({ shown: this.#shown.length, all: this.#items.length, held: this.#held.length, hasEvents });
  }

  #draw() {
    this.#drawing ||= requestAnimationFrame(() => {
      this.#drawing = 0;
      const box = this.#box;
      this.#tall.style.height = `${this.#shown.length * ROW_PX}px`;
      if (this.#follow) box.scrollTop = box.scrollHeight;
      const from = Math.max(0, Math.floor(box.scrollTop / ROW_PX) - SPARE_ROWS);
      const until = Math.min(this.#shown.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW_PX) + SPARE_ROWS);
      const rows = [];
      for (let at = from; at < until; at += 1) rows.push(this.#row(this.#shown[at], at));
      this.#tall.replaceChildren(...rows);
      const active = this.#chosen && rows.find((row) => row.id === `event-${this.#chosen.number}`);
      if (active) box.setAttribute("aria-activedescendant", active.id);
      else box.removeAttribute("aria-activedescendant");
    });
  }

  #row(item, at) {
    const row = element("div", {
      class: `row ${item.kind}`,
      id: `event-${item.number}`,
      role: "option",
      "aria-selected": String(item === this.#chosen),
      "aria-posinset": at + 1,
      "aria-setsize": this.#shown.length,
      "data-at": at,
    });
    row.style.top = `${at * ROW_PX}px`;
    const when = element("span", { class: "when", title: utc(item.at) }, clock(item.at));
    if (item.kind === "event") {
      const seq = item.id.slice(item.id.lastIndexOf("-") + 1);
      row.append(
        when,
        element("span", { class: "type", "data-hue": hue(item.name) }, item.label),
        element("span", { class: "data" }, item.data.slice(0, PREVIEW_CHARS)),
        element("span", { class: "seq" }, seq),
      );
    } else row.append(when, element("span", { class: "said" }, item.text));
    return row;
  }

  #scrolled() {
    const box = this.#box;
    this.#follow = box.scrollTop + box.clientHeight >= box.scrollHeight - ROW_PX;
    this.#draw();
  }

  #clicked(event) {
    const row = event.target.closest(".row");
    if (row) this.#choose(this.#shown[Number(row.dataset.at)]);
  }

  #key(event) {
    const page = Math.max(1, Math.floor(this.#box.clientHeight / ROW_PX) - 1);
    const last = this.#shown.length - 1;
    const now = this.#chosen ? this.#shown.indexOf(this.#chosen) : last + 1;
    const to = { ArrowUp: now - 1, ArrowDown: now + 1, PageUp: now - page, PageDown: now + page, Home: 0, End: last }[
      event.key
    ];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    const at = Math.min(Math.max(to, 0), last);
    this.#choose(this.#shown[at]);
    const top = at * ROW_PX;
    const box = this.#box;
    this.#follow = at === last;
    if (top < box.scrollTop) box.scrollTop = top;
    else if (top + ROW_PX > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW_PX - box.clientHeight;
  }

  #choose(item) {
    this.#chosen = item;
    this.#onChoose(item);
    this.#draw();
  }
}

/** One of a few colours for a type, always the same one. */
function hue(name) {
  let sum = 0;
  for (const letter of name) sum = (sum * 33 + letter.codePointAt(0)) % 9973;
  return sum % HUES;
}
