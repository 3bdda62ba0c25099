// What the page says about connections and gaps.

import { plural } from "./page-dom.js";

export const ESTABLISHED = "Real-time connection established";
export const NOT_ACTIVE = "Real-time connection not active";
export const BADGES = {
  connecting: "Connecting",
  open: "Connected",
  reconnecting: "Reconnecting",
  closed: "Not connected",
};
export const CLOSINGS = {
  shutdown: "the hub is shutting down",
  deleted: "the project was deleted",
  expired: "the token has expired",
  lifetime: "the hub ends streams after a while",
};

/** What is missing and why, as one line. */
export function gapText({ lost, reason, asked }) {
  const what = {
    evicted: "the hub no longer held them",
    restart: "the hub has begun a new history",
    unknown: "the hub never issued that id",
  }[reason];
  const count = lost === null ? "An unknown number of events" : plural(lost, "event");
  return `Gap: ${count} can't be given, ${what} (asked for ${asked})`;
}

/** Why there is no connection, in a few words. */
export function why(error) {
  if (!error) return "it was closed";
  const { code, status, message } = error;
  if (status === 401) return "the hub wants a token";
  if (status === 403) return "the token doesn't cover this project";
  if (code === "network") return "the hub can't be reached";
  if (code === "ended") return "the stream has ended";
  return message;
}
