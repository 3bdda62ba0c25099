import { expect, test } from "./fixtures";

test("a page shows what is published, also after a reload", async ({ page, hub, hubUrl, project }) => {
  // In your tests: your application, with `hubUrl` in its configuration. Here it is a script in a page of the hub.
  await page.addInitScript(
    `import("/edge.js").then(({ ProjectStream }) => {
      const stream = new ProjectStream("/", { project: "${project}", since: "all" });
      stream.addEventListener("progress", ({ json }) => (document.body.textContent = json.percent + " percent"));
    });`,
  );
  await page.goto(`${hubUrl}/healthz`);

  await hub.publish(project, { type: "progress", data: { percent: 50 } }, { wait: 30_000 });
  await expect(page.getByText("50 percent")).toBeVisible();
  await page.reload();
  await expect(page.getByText("50 percent")).toBeVisible();
});
