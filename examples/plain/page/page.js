// A page that starts jobs and shows the newest one: what it did so far, also after a reload and in a second tab.

const hub = document.querySelector("meta[name=hub]").content;
const element = (selector) => document.querySelector(selector);
const complain = (text) => (element("[role=alert]").textContent = text);
const { ProjectStream } = await import(`${hub}/edge.js`).catch((error) => {
  complain("The hub can't be reached. Reload the page to try again.");
  throw error;
});

// What is on this page: take the id of your document, conversation or user.
const project = new URL(location).searchParams.get("project") ?? "demo";
const stream = new ProjectStream(hub, { project, since: "all" });

const seen = new Set();
let job = null; // the newest one: { id, state, prompt, percent, … }

stream.addEventListener("event", ({ name, json }) => {
  if (!["started", "progress", "complete", "failed"].includes(name)) return;
  if (!seen.has(json.job)) {
    seen.add(json.job);
    job = { id: json.job };
  }
  if (json.job !== job.id) return; // an older job, which this page no longer shows
  job = { ...job, ...json, state: name };
  show();
});

stream.addEventListener("gap", () => complain("Some events are no longer available; the page may be incomplete."));

stream.addEventListener("statechange", ({ detail }) => {
  const texts = { open: "Connected", closed: "Disconnected" };
  element("[role=status]").textContent = texts[detail.state] ?? "Connecting…";
});

element("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  complain("");
  const { prompt } = Object.fromEntries(new FormData(event.target));
  try {
    await stream.trigger("render", { prompt }, { timeout: 10_000 }); // waits until the stream is open
  } catch (error) {
    complain(error.message);
  }
});
element("form button").disabled = false; // sent before, the form would reload the page

function show() {
  element("#job").hidden = false;
  element("h2").textContent = job.prompt ?? "";
  element("progress").value = job.state === "complete" ? 100 : (job.percent ?? 0);
  element("#result").textContent = { complete: job.result, failed: `Failed: ${job.error}` }[job.state] ?? "Working…";
}
