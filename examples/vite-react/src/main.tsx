import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { App } from "./app";
import "./style.css";

// What is on this page: take the id of your document, conversation or user.
const project = new URLSearchParams(location.search).get("project") ?? "demo";

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <App project={project} />
  </StrictMode>,
);
