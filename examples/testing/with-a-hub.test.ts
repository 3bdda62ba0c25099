import { ProjectStream, type ProjectEvent } from "edge-hub";
import { Hub } from "edge-hub/server";
import { expect, inject, test } from "vitest";

test("a subscriber that comes late gets what it missed", async () => {
  const hub = new Hub({ url: inject("hubUrl") });
  const project = crypto.randomUUID();
  await hub.publish(project, { type: "progress", data: { percent: 50 } });

  const stream = new ProjectStream(inject("hubUrl"), { project });
  const event = await new Promise<ProjectEvent>((resolve) => stream.addEventListener("progress", resolve));
  expect(event.json).toEqual({ percent: 50 });
  stream.close();
});
