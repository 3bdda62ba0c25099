import { Inngest, NonRetriableError } from "inngest";

import { hub } from "./hub";

export const inngest = new Inngest({ id: "generator" });

interface Iterate {
  project: string; // the hub adds it
  job: string;
  prompt: string;
}

const STEPS = ["Reading the prompt", "Sketching", "Painting", "Framing"];
const STEP_MS = Number(process.env.STEP_MS ?? 1000);

/** Publishes an event of the job. A step that runs again publishes nothing twice: it has the same key. */
function publish({ project, job }: Iterate, type: string, data: object, key = type) {
  return hub.publish(project, { type, data: { job, ...data } }, { key: `${job}-${key}` });
}

export const iterate = inngest.createFunction(
  {
    id: "iterate",
    triggers: [{ event: "api/iterate" }],
    onFailure: async ({ event, error }) => {
      await publish(event.data.event.data as Iterate, "failed", { error: error.message });
    },
  },
  async ({ event, step }) => {
    const job = event.data as Iterate;
    await step.run("started", () => publish(job, "started", { prompt: job.prompt }));
    for (const [index, name] of STEPS.entries()) {
      await step.run(name, async () => {
        await new Promise((resolve) => setTimeout(resolve, STEP_MS)); // your model
        if (job.prompt.includes("fail")) throw new NonRetriableError("The paint is empty.");
        await publish(job, "progress", { step: name, percent: (100 * (index + 1)) / STEPS.length }, `progress-${index}`);
      });
    }
    await step.run("complete", () => publish(job, "complete", { result: `A picture of ${job.prompt}` }));
  },
);
