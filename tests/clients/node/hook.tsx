// A page for test_recipes.py: the hook with what `window.use(project, options)` says, and what became of it in `window.seen`.
import { StrictMode, useEffect } from "react";
import { createRoot } from "react-dom/client";

import { useProjectStream } from "edge-hub/react";

type Project = string | string[] | null;
const seen: string[] = [];
const root = createRoot(document.getElementById("root")!);

function Child({ ready }: { ready: () => Promise<void> }) {
  useEffect(() => {
    // Runs before the effects of the parent, which opens the stream.
    ready().then(
      () => seen.push("ready"),
      (error) => seen.push(error.code),
    );
  }, [ready]);
  return null;
}

function Page({ project, label, ...options }: { project: Project; label: string; shared?: boolean; since?: string }) {
  const { state, error, ready } = useProjectStream(project, {
    ...options,
    url: "/hub",
    on: { progress: (event) => seen.push(`${label} ${event.project ?? project} ${event.data}`) },
  });
  return (
    <p role="status">
      {label} {state} {error?.code}
      {project && <Child ready={() => ready({ timeout: 60_000 })} key={String(project)} />}
    </p>
  );
}

Object.assign(window, {
  seen,
  use: (project: Project, label: string, options: object) =>
    root.render(
      <StrictMode>
        <Page project={project} label={label} {...options} />
      </StrictMode>,
    ),
  unmount: () => root.render(null),
});
