import { test as base } from "@playwright/test";
import { Hub } from "edge-hub/server";

import { startHub, type StartedHub } from "./start-hub.mjs";

/** `hubUrl` is a hub for each worker, `hub` asks it, and `project` is new for each test. */
export const test = base.extend<{ project: string; hub: Hub }, { started: StartedHub; hubUrl: string }>({
  started: [
    async ({}, use) => {
      const hub = await startHub();
      await use(hub);
      await hub.stop();
    },
    { scope: "worker" },
  ],
  hubUrl: [async ({ started }, use) => use(started.url), { scope: "worker" }],
  hub: async ({ hubUrl }, use) => use(new Hub({ url: hubUrl })),
  project: async ({}, use) => use(crypto.randomUUID()),
});

export { expect } from "@playwright/test";
