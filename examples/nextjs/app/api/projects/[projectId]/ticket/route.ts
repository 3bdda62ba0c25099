import { hub } from "../../../../../src/hub";

/** A ticket opens one stream of the project. Check your session here: who may see the project? */
export async function POST(_request: Request, { params }: { params: Promise<{ projectId: string }> }) {
  return Response.json(await hub.ticket((await params).projectId));
}
