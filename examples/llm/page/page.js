// A page that shows the newest answer as it is written, also after a reload and in a second tab.

const hub = document.querySelector("meta[name=hub]").content;
const element = (selector) => document.querySelector(selector);
const complain = (text) => (element("[role=alert]").textContent = text);
const { ProjectStream } = await import(`${hub}/edge.js`).catch((error) => {
  complain("The hub can't be reached. Reload the page to try again.");
  throw error;
});

const project = new URL(location).searchParams.get("project") ?? "chat";
const stream = new ProjectStream(hub, { project, since: "all" });

const seen = new Set();
let answer = null; // the newest one: { id, state, prompt, text }

stream.addEventListener("event", ({ name, json }) => {
  if (!["started", "progress", "complete"].includes(name)) return;
  if (!seen.has(json.job)) {
    seen.add(json.job);
    answer = { id: json.job, text: "" };
  }
  if (json.job !== answer.id) return; // an older one
  answer.state = name;
  if (name === "started") Object.assign(answer, { prompt: json.prompt, text: json.text });
  else if (name === "progress") append(json.at, json.text);
  else {
    answer.stopped = json.stopped;
    if (answer.text.length < json.length) catchUp();
  }
  show();
});

// Each token says where it stands, so one that comes twice changes nothing, and a missing beginning shows.
function append(at, text) {
  if (at > answer.text.length) catchUp();
  else if (at + text.length > answer.text.length) answer.text = answer.text.slice(0, at) + text;
}

// The hub holds the last 1,000 events, an answer may have more: load what is written so far from the backend.
async function catchUp() {
  const { id, isLoading } = answer;
  if (isLoading) return;
  answer.isLoading = true;
  const written = await (await fetch(`/answers/${id}`)).json(); // prompt, text
  if (answer.id === id) Object.assign(answer, written, { isLoading: false });
  show();
}

stream.addEventListener("statechange", ({ detail }) => {
  const texts = { open: "Connected", closed: "Disconnected" };
  element("[role=status]").textContent = texts[detail.state] ?? "Connecting…";
});

element("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  complain("");
  const { prompt } = Object.fromEntries(new FormData(event.target));
  try {
    await stream.trigger("ask", { prompt }, { timeout: 10_000 }); // waits until the stream is open
  } catch (error) {
    complain(error.message);
  }
});
element("form button").disabled = false; // sent before, the form would reload the page

element("#stop").addEventListener("click", () => fetch(`/answers/${answer.id}/stop`, { method: "POST" }));

function show() {
  const isDone = answer.state === "complete";
  element("article").hidden = false;
  element("h2").textContent = answer.prompt ?? "";
  element("#answer").textContent = answer.text;
  element("#state").textContent = !isDone ? "Writing…" : answer.stopped ? "Stopped" : "Done";
  element("#stop").hidden = isDone;
}
