export interface Message {
  id: string;
  content: string;
}

// Your database. On globalThis, because a development server loads this file again after every change.
const store = globalThis as unknown as { messages?: Map<string, Message[]> };
const messages = (store.messages ??= new Map());

export const listMessages = (projectId: string): Message[] => messages.get(projectId) ?? [];

export function createMessage(projectId: string, content: string): Message {
  const message = { id: crypto.randomUUID(), content };
  messages.set(projectId, [...listMessages(projectId), message]);
  return message;
}

export function deleteMessage(projectId: string, { id }: Message): void {
  messages.set(
    projectId,
    listMessages(projectId).filter((one) => one.id !== id),
  );
}
