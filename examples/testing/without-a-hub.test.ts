import { ProjectStream } from "edge-hub";
import { Hub } from "edge-hub/server";
import { FakeHub } from "edge-hub/testing";
import { afterEach, beforeEach, expect, test } from "vitest";

const fake = new FakeHub({ url: "http://hub.test", onJob: work });

beforeEach(() => void fake.install());
afterEach(() => fake.uninstall());

/** The backend under test. */
async function work({ id, project }: { id: string; project: string }) {
  const hub = new Hub({ url: "http://hub.test" });
  await hub.publish(project, { type: "complete", data: { job: id } });
}

test("a job is started once a page is connected, and its end comes after the cable was cut", async () => {
  const page = new ProjectStream("http://hub.test", { project: "p" });
  const seen: string[] = [];
  page.addEventListener("event", ({ name }) => seen.push(name));

  await page.trigger("render", { prompt: "a red house" });
  expect(fake.jobs).toMatchObject([{ name: "render", data: { prompt: "a red house" } }]);
  await expect.poll(() => seen).toEqual(["complete"]);

  fake.cut("p");
  fake.publish("p", { type: "complete", data: { job: "another" } });
  await expect.poll(() => seen).toEqual(["complete", "complete"]);
  page.close();
});

test("without a subscriber, no job", async () => {
  const hub = new Hub({ url: "http://hub.test" });
  await expect(hub.trigger("empty", "render", {}, { timeout: 10 })).rejects.toMatchObject({ code: "no_connection" });
});
