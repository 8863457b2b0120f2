/** How the hub is reached: the environment variables that all Hugging Face libraries read. */
import { join } from "./files.ts";
import { type HubProgress, hubProgress } from "./hub_progress.ts";

/** A model of the hub. */
export interface Repository {
  readonly name: string;
  /** Branch, tag or commit. */
  readonly revision: string;
}

export interface HubSettings {
  readonly endpoint: string;
  readonly token?: string;
  /** Nothing is asked of the network. */
  readonly offline: boolean;
  /** Folder of the cache, which other Hugging Face libraries share. */
  readonly cache: string;
  /** Told how far a download is. */
  readonly progress: HubProgress;
  /** Milliseconds before the first further try of what failed; doubled each time. */
  readonly pause: number;
}

/** As `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE` and `HF_HUB_CACHE` or `HF_HOME` say. */
export function hubSettings(): HubSettings {
  const token = Deno.env.get("HF_TOKEN")?.trim();
  return {
    endpoint: (Deno.env.get("HF_ENDPOINT") || "https://huggingface.co").replace(/\/+$/, ""),
    ...(token && { token }),
    offline: /^(1|on|yes|true)$/i.test(Deno.env.get("HF_HUB_OFFLINE") ?? ""),
    cache: cacheFolder(),
    progress: hubProgress(),
    pause: 500,
  };
}

/** Where all Hugging Face libraries look. */
function cacheFolder(): string {
  const named = (name: string) => Deno.env.get(name) || undefined;
  const home = named("HF_HOME") ??
    join(
      named("XDG_CACHE_HOME") ?? join(named("HOME") ?? named("USERPROFILE") ?? ".", ".cache"),
      "huggingface",
    );
  return named("HF_HUB_CACHE") ?? named("HUGGINGFACE_HUB_CACHE") ?? join(home, "hub");
}
