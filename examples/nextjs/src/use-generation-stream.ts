"use client";

import { useCallback, useState } from "react";

import { useProjectStream, type ProjectEvent } from "edge-hub/react";

export interface Job {
  state: "started" | "progress" | "complete" | "failed";
  prompt?: string;
  step?: string;
  percent?: number;
  result?: string;
  error?: string;
}

/** The stream of a project, and what it says of each job, by the job's id. */
export function useGenerationStream(projectId: string) {
  const [jobs, setJobs] = useState<Record<string, Job>>({});

  // Each event stands for itself, so one that comes again (after a reload, in StrictMode) changes nothing.
  const apply = useCallback(({ name, json: { job, ...data } }: ProjectEvent) => {
    setJobs((before) => ({ ...before, [job]: { ...before[job], ...data, state: name } }));
  }, []);

  const stream = useProjectStream(projectId, {
    url: "/hub",
    since: "all", // a page that draws everything from events needs the beginning, too
    ticket: async () => {
      const response = await fetch(`/api/projects/${projectId}/ticket`, { method: "POST" });
      if (!response.ok) throw new Error(`The ticket was refused with status ${response.status}.`);
      return (await response.json()).ticket;
    },
    on: { started: apply, progress: apply, complete: apply, failed: apply },
  });
  return { ...stream, jobs };
}
