// Requests to the hub, and the token: asked for on 401 and kept in sessionStorage, which ends with the tab.

import { EdgeError } from "./edge.js";
import { byId } from "./page-dom.js";

const KEY = "edge_token";
export const base = new URL(".", location.href);

export const token = () => sessionStorage.getItem(KEY) ?? "";

/** The answer's JSON; rejects with an EdgeError. */
export async function ask(path, { method = "GET", headers = {}, body } = {}) {
  if (token()) headers.Authorization = `Bearer ${token()}`;
  let answer;
  try {
    answer = await fetch(new URL(path, base), { method, headers, body, cache: "no-store" });
  } catch (cause) {
    throw new EdgeError("network", "The hub can't be reached.", { cause });
  }
  const isJson = /json/.test(answer.headers.get("Content-Type"));
  const found = isJson ? await answer.json() : await answer.text();
  if (answer.ok) return found;
  const { code = `http_${answer.status}`, detail = `The hub responded with status ${answer.status}.` } = isJson ? found : {};
  throw new EdgeError(code, detail, { status: answer.status, problem: found });
}

let asking = null;

/** Asks for a token; resolves when there is a new one. Concurrent calls share one dialog. */
export function askForToken() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("ask-token");
    byId("ask-token-why").textContent = token()
      ? "That token is invalid or has expired."
      : "Enter auth.token of the hub's configuration, or a JSON Web Token with the permissions you need.";
    byId("token").value = "";
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener(
      "close",
      () => {
        sessionStorage.setItem(KEY, byId("token").value.trim());
        asking = null;
        resolve();
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}
