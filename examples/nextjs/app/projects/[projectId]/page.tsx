import { listMessages } from "../../../src/messages";
import { ProjectPage } from "./project-page-client";

export default async function Page({ params }: { params: Promise<{ projectId: string }> }) {
  const { projectId } = await params;
  return <ProjectPage projectId={projectId} initialMessages={listMessages(projectId)} />;
}
