"use client";

import { useState, type FormEvent } from "react";

import type { Message } from "../../../src/messages";
import { useGenerationStream, type Job } from "../../../src/use-generation-stream";

interface Props {
  projectId: string;
  initialMessages: Message[];
}

export function ProjectPage({ projectId, initialMessages }: Props) {
  const [messages, setMessages] = useState(initialMessages);
  const [isSending, setIsSending] = useState(false);
  const [problem, setProblem] = useState("");
  const stream = useGenerationStream(projectId);

  async function handleSend(event: FormEvent<HTMLFormElement>) {
    event.preventDefault();
    const form = event.currentTarget;
    const content = String(new FormData(form).get("content")).trim();
    if (!content || isSending) return;
    setIsSending(true);
    setProblem("");
    try {
      await stream.ready({ timeout: 10_000 }); // the backend starts the job once this page has confirmed that it listens
      const response = await fetch(`/api/projects/${projectId}/messages`, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ content }),
      });
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.detail);
      setMessages((before) => [...before, answer]);
      form.reset();
    } catch (error) {
      setProblem(error instanceof Error ? error.message : String(error));
    } finally {
      setIsSending(false);
    }
  }

  // What another tab sent is known by its events.
  const others = Object.keys(stream.jobs).filter((id) => !messages.some((message) => message.id === id));
  return (
    <main>
      <header>
        <h1>{projectId}</h1>
        <span role="status" data-state={stream.state}>
          {stream.isConnected ? "Connected" : stream.state === "closed" ? "Disconnected" : "Connecting…"}
        </span>
      </header>
      <form onSubmit={handleSend}>
        <input name="content" aria-label="Message" placeholder="a red house" required />
        <button disabled={isSending}>{isSending ? "Sending…" : "Send"}</button>
      </form>
      <p role="alert">{problem || (stream.gap && "Some events are no longer available; the page may be incomplete.")}</p>
      <ol>
        {messages.map(({ id, content }) => (
          <MessageItem key={id} content={content} job={stream.jobs[id]} />
        ))}
        {others.map((id) => (
          <MessageItem key={id} content={stream.jobs[id].prompt ?? ""} job={stream.jobs[id]} />
        ))}
      </ol>
    </main>
  );
}

function MessageItem({ content, job }: { content: string; job?: Job }) {
  return (
    <li>
      <p>{content}</p>
      {job?.state === "complete" ? (
        <strong>{job.result}</strong>
      ) : job?.state === "failed" ? (
        <strong>Failed: {job.error}</strong>
      ) : (
        <>
          <progress max={100} value={job?.percent ?? 0} />
          <small>{job?.step ?? "Waiting…"}</small>
        </>
      )}
    </li>
  );
}
