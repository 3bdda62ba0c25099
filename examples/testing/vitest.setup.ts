import type { TestProject } from "vitest/node";

import { startHub } from "./start-hub.mjs";

declare module "vitest" {
  export interface ProvidedContext {
    hubUrl: string;
  }
}

/** One hub for all tests; each takes projects of its own. */
export default async function setup(tests: TestProject) {
  const hub = await startHub();
  tests.provide("hubUrl", hub.url);
  return hub.stop;
}
