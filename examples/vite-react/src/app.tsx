import { useState, type FormEvent } from "react";

import { useJobs, type Job } from "./use-jobs";

export function App({ project }: { project: string }) {
  const [isSending, setIsSending] = useState(false);
  const [problem, setProblem] = useState("");
  const stream = useJobs(project);

  async function handleSend(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const form = event.currentTarget;
    setIsSending(true);
    setProblem("");
    try {
      const { prompt } = Object.fromEntries(new FormData(form));
      await stream.trigger("render", { prompt }, { timeout: 10_000 }); // waits until the stream is open
      form.reset();
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    } finally {
      setIsSending(false);
    }
  }

  const status = { open: "Connected", closed: "Disconnected", connecting: "Connecting…", reconnecting: "Connecting…" };
  return (
    <main>
      <header>
        <h1>{project}</h1>
        <span role="status" data-state={stream.state}>
          {status[stream.state]}
        </span>
      </header>
      <form onSubmit={handleSend}>
        <input name="prompt" aria-label="Prompt" placeholder="a red house" required />
        <button disabled={isSending}>{isSending ? "Sending…" : "Render"}</button>
      </form>
      <p role="alert">{problem || (stream.gap && "Some events are no longer available; the page may be incomplete.")}</p>
      <ol>
        {stream.jobs.map((job) => (
          <JobItem key={job.id} job={job} />
        ))}
      </ol>
    </main>
  );
}

function JobItem({ job }: { job: Job }) {
  return (
    <li>
      <p>{job.prompt}</p>
      {job.state === "complete" && <strong>{job.result}</strong>}
      {job.state === "failed" && <strong>Failed: {job.error}</strong>}
      {["started", "progress"].includes(job.state) && <progress max={100} value={job.percent ?? 0} />}
    </li>
  );
}
