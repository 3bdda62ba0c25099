"use client";
// A project's stream as a React hook. Types: react.d.ts; use: docs/javascript.md.

import { useCallback, useEffect, useRef, useState } from "react";

import { EdgeError, ProjectStream } from "./edge.js";

export { EdgeError };

const CONNECTING = { state: "connecting", error: null, waitMs: 0, gap: null };

export function useProjectStream(project, { url = "/", on, onEvent, onGap, ...options } = {}) {
  const [seen, setSeen] = useState(CONNECTING);
  const stream = useRef(null);
  const latest = useRef(null);
  useEffect(() => {
    latest.current = { on, onEvent, onGap, options };
  });

  const { since, shared, observe, credentials } = options;
  const key = JSON.stringify(project ?? null);
  const [token, ticket] = [options.token, options.ticket].map((secret) => (secret?.call ? "function" : secret));
  useEffect(() => {
    const named = JSON.parse(key);
    if (!named?.length) return;
    const renewed = (name) =>
      latest.current.options[name]?.call ? (one) => latest.current.options[name](one) : latest.current.options[name];
    const secrets = { token: renewed("token"), ticket: renewed("ticket") };
    const which = Array.isArray(named) ? { projects: named } : { project: named };
    const opened = new ProjectStream(url, { ...latest.current.options, ...secrets, ...which });
    stream.current = opened;
    setSeen(CONNECTING);
    opened.addEventListener("statechange", ({ detail: { state, error, waitMs } }) =>
      setSeen((before) => ({ ...before, state, error, waitMs })),
    );
    opened.addEventListener("gap", ({ detail }) => {
      setSeen((before) => ({ ...before, gap: detail }));
      latest.current.onGap?.(detail);
    });
    opened.addEventListener("event", (event) => {
      const { on, onEvent } = latest.current;
      onEvent?.(event);
      if (on && Object.hasOwn(on, event.name)) on[event.name](event);
    });
    return () => {
      stream.current = null;
      opened.close();
    };
  }, [url, key, since, shared, observe, credentials, token, ticket]);

  const opened = useCallback(async () => {
    await null; // a child's effects run before ours
    if (!stream.current) throw new EdgeError("not_connected", "The component has no stream: it is not mounted.");
    return stream.current;
  }, []);
  const ready = useCallback(async (wait) => (await opened()).ready(wait), [opened]);
  const trigger = useCallback(async (...job) => (await opened()).trigger(...job), [opened]);

  return { ...seen, isConnected: seen.state === "open", ready, trigger };
}
