export interface StartedHub {
  url: string;
  stop: () => Promise<void>;
}

export function startHub(settings?: Record<string, string>, command?: string[]): Promise<StartedHub>;
