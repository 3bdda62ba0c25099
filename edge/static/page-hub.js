// Requests to the hub, and who makes them: the token is kept in sessionStorage, which ends with the tab.

import { EdgeError } from "./edge.js";
import { byId } from "./page-dom.js";

const KEY = "edge_token";
export const base = new URL(".", location.href);

export const token = () => sessionStorage.getItem(KEY) ?? "";
/** What a copied curl command needs to do what this page may do. */
export const curlToken = () => (token() ? ` -H "Authorization: Bearer $EDGE_TOKEN"` : "");

/** The answer's JSON; rejects with an EdgeError. A hub that has stopped must not leave the page as if all were well. */
export async function ask(path, { method = "GET", headers = {}, body, withinMs = 10_000 } = {}) {
  if (token()) headers.Authorization = `Bearer ${token()}`;
  const signal = AbortSignal.timeout(withinMs);
  let answer, isJson, found;
  try {
    answer = await fetch(new URL(path, base), { method, headers, body, cache: "no-store", signal });
    isJson = /json/.test(answer.headers.get("Content-Type"));
    found = isJson ? await answer.json() : await answer.text();
  } catch (cause) {
    throw new EdgeError("network", "The hub can't be reached.", { cause });
  }
  if (answer.ok) return found;
  const { code = `http_${answer.status}`, detail = `The hub responded with status ${answer.status}.` } = isJson
    ? found
    : {};
  throw new EdgeError(code, detail, { status: answer.status, problem: found });
}

let asking = null;
let declined = false;

/** Asks for a token unless that was declined before; resolves to whether there is a new one. Calls share one dialog. */
export function askForToken({ again = false } = {}) {
  if (declined && !again) return Promise.resolve(false);
  asking ??= new Promise((resolve) => {
    const dialog = byId("ask-token");
    byId("ask-token-why").textContent = token()
      ? "That token is invalid or has expired."
      : "Enter auth.token of the hub's configuration, or a JSON Web Token with the permissions you need.";
    byId("token").value = "";
    dialog.returnValue = "";
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        declined = dialog.returnValue !== "ok";
        if (!declined) sessionStorage.setItem(KEY, byId("token").value.trim());
        resolve(!declined);
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}

byId("ask-token-cancel").addEventListener("click", () => byId("ask-token").close());

/** The button in the bar: it shows once a token is in use, or once the hub has asked for one. */
export function showSign(needed) {
  const button = byId("sign");
  button.hidden = !(needed || token());
  button.textContent = token() ? "Sign out" : "Sign in";
}

byId("sign").addEventListener("click", async () => {
  if (token()) sessionStorage.removeItem(KEY);
  else if (!(await askForToken({ again: true }))) return;
  location.reload();
});

/** Asks before something that can't be undone; resolves to whether it is to be done. */
export function confirmed(title, text, action) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-ok").textContent = action;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true }),
  );
}
