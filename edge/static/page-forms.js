// The forms that publish and trigger: each shows its receipt, or the problem with its remedy.

import { element, jsonTree, plural } from "./page-dom.js";
import { ask, askForToken } from "./page-hub.js";

/** `path` is that of the events, of one project or several; `onSent` is called after every attempt. */
export function publishForm(path, onSent) {
  const send = ({ type, data, format }) =>
    format === "json"
      ? post(path, "application/json", `{"type": ${JSON.stringify(type)}, "data": ${json(data)}}`)
      : post(`${path}${path.includes("?") ? "&" : "?"}${new URLSearchParams({ type })}`, "text/plain", data);
  const say = ({ connections, missed, id, receipts }) =>
    receipts
      ? receipts.map((one) => `${one.project}: ${plural(one.connections, "connection")}`).join(", ")
      : missed
        ? `No subscriber was connected: ${id} is held as a pending miss.`
        : `Published to ${plural(connections, "connection")} as ${id}.`;
  const formats = [element("option", { value: "json" }, "JSON"), element("option", { value: "text" }, "Text")];
  return form("Publish", { send, say, onSent }, [
    labelled("Type", input("type", "message")),
    labelled("Data", textarea("data", '{"hello": "world"}')),
    labelled("As", element("select", { name: "format" }, ...formats)),
  ]);
}

/** `path` is the project's; `receives` returns whether this page is a subscriber, which then confirms. */
export function triggerForm(path, receives, onSent) {
  const send = async ({ name, data, seconds }, progress) => {
    const body = `{"name": ${JSON.stringify(name)}, "data": ${json(data)}}`;
    const query = new URLSearchParams({ timeout: `${Number(seconds) * 1000}ms` });
    if (receives()) query.set("confirm", "client");
    const began = performance.now();
    const tick = () => progress(`Waiting for a confirmed connection… ${since(began)} s`);
    const ticking = setInterval(tick, 100);
    tick();
    try {
      return await post(`${path}/trigger?${query}`, "application/json", body);
    } catch (error) {
      if (error.code === "no_connection" && !receives())
        error.message += " “Receive events here” makes this page a subscriber.";
      throw error;
    } finally {
      clearInterval(ticking);
    }
  };
  const say = ({ waited_ms: waited, connections, confirmed, target }) => {
    const who = `${plural(connections, "connection")}, ${confirmed ? `confirmed (${confirmed})` : "not confirmed"}`;
    return `Started after ${waited} ms: ${who}; target ${target.kind}, status ${target.status}.`;
  };
  const seconds = { name: "seconds", type: "number", min: "0", max: "60", step: "0.5", value: "3", required: true };
  return form("Trigger", { send, say, onSent }, [
    labelled("Job", input("name", "api/iterate")),
    labelled("Data", textarea("data", '{"prompt": "hello"}')),
    labelled("Wait up to (s)", element("input", seconds)),
  ]);
}

function form(title, { send, say, onSent }, fields) {
  const output = element("output");
  const receipt = element("div", { class: "receipt json" });
  const button = element("button", { class: "primary" }, title);
  const tell = (text, kind = "") => {
    output.textContent = text;
    output.dataset.kind = kind;
  };
  const onsubmit = async (event) => {
    event.preventDefault();
    const values = Object.fromEntries(new FormData(event.target));
    button.disabled = true;
    receipt.replaceChildren();
    tell("");
    try {
      const answer = await send(values, tell);
      tell(say(answer), answer.missed ? "warn" : "good");
      receipt.replaceChildren(jsonTree(answer, "receipt", false));
    } catch (error) {
      tell(error.message, "bad");
      if (error.problem?.code) receipt.replaceChildren(jsonTree(error.problem, error.code, false));
      if (error.status === 401) await askForToken({ again: true });
    } finally {
      button.disabled = false;
      onSent();
    }
  };
  const last = fields.pop();
  const heading = element("h2", {}, title);
  return element(
    "form",
    { onsubmit },
    heading,
    ...fields,
    element("div", { class: "send" }, last, button),
    output,
    receipt,
  );
}

const post = (path, type, body) =>
  ask(path, { method: "POST", headers: { "Content-Type": type }, body, withinMs: 90_000 }); // a trigger waits

const since = (moment) => ((performance.now() - moment) / 1000).toFixed(1);

const labelled = (text, field) => element("label", {}, element("span", {}, text), field);

const input = (name, value) =>
  element("input", { name, value, required: true, autocomplete: "off", spellcheck: "false" });

const textarea = (name, value) => element("textarea", { name, rows: "3", spellcheck: "false" }, value);

/** `text`, or an error that says why it is not JSON. */
function json(text) {
  try {
    JSON.parse(text);
    return text;
  } catch (error) {
    throw new Error(`The data is not JSON: ${error.message}`, { cause: error });
  }
}
