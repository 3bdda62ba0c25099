import { useCallback, useState } from "react";

import { useProjectStream, type ProjectEvent } from "edge-hub/react";

export interface Job {
  id: string;
  state: "started" | "progress" | "complete" | "failed";
  prompt?: string;
  percent?: number;
  result?: string;
  error?: string;
}

/** The stream of a project, and its jobs in the order in which they began. */
export function useJobs(project: string) {
  const [jobs, setJobs] = useState<Job[]>([]);

  // Each event stands for itself, so one that comes again (after a reload, in StrictMode) changes nothing.
  const apply = useCallback(({ name, json: { job: id, ...data } }: ProjectEvent) => {
    const update = { id, ...data, state: name } as Job;
    setJobs((before) =>
      before.some((job) => job.id === id)
        ? before.map((job) => (job.id === id ? { ...job, ...update } : job))
        : [...before, update],
    );
  }, []);

  const stream = useProjectStream(project, {
    url: "/hub",
    since: "all", // a page that draws everything from events needs the beginning, too
    on: { started: apply, progress: apply, complete: apply, failed: apply },
  });
  return { ...stream, jobs };
}
