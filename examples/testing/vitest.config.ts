import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    globalSetup: "./vitest.setup.ts",
    include: ["*.test.ts"],
    testTimeout: 60_000,
    expect: { poll: { timeout: 30_000 } },
  },
});
