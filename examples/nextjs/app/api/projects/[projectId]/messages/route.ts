import { EdgeError } from "edge-hub/server";

import { hub } from "../../../../../src/hub";
import { createMessage, deleteMessage } from "../../../../../src/messages";

/** Stores a message and starts its job. Check your session here: who may write in the project? */
export async function POST(request: Request, { params }: { params: Promise<{ projectId: string }> }) {
  const { projectId } = await params;
  const { content } = await request.json();
  const message = createMessage(projectId, content);
  try {
    // The hub sends the job to Inngest once a page has confirmed that it is connected.
    const data = { job: message.id, prompt: content };
    await hub.trigger(projectId, "api/iterate", data, { id: message.id, confirm: "client", timeout: 10_000 });
    return Response.json(message, { status: 201 });
  } catch (error) {
    deleteMessage(projectId, message);
    if (!(error instanceof EdgeError)) throw error;
    console.warn(`The job of project ${projectId} was not started: ${error.code}: ${error.message}`);
    return Response.json({ code: error.code, detail: "The job was not started. Please try again." }, { status: 503 });
  }
}
