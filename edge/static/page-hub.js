// Asking the hub, and who one is: a token, asked for on 401 and kept in sessionStorage, which ends with the tab.

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
  const { code = `http_${answer.status}`, detail = `The hub answered ${answer.status}.` } = isJson ? found : {};
  throw new EdgeError(code, detail, { status: answer.status, problem: found });
}

let asking = null;

/** Asks for a token; resolves when there is a new one. However many ask, there is one dialog. */
export function askForToken() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("ask-token");
    byId("ask-token-why").textContent = token()
      ? "The token this tab had is not valid, or not any more."
      : "Set by auth.token in its configuration, or a JWT whose rights cover what you want to do.";
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
