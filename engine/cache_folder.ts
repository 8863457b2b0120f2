/** Where Baton keeps what it can make again: plans and profiles. */
import { join } from "./files.ts";

/** `BATON_CACHE`, else a folder of the user's own cache. */
export function cacheFolder(): string {
  const named = (name: string) => Deno.env.get(name) || undefined;
  return named("BATON_CACHE") ??
    join(
      named("XDG_CACHE_HOME") ?? named("LOCALAPPDATA") ?? join(named("HOME") ?? ".", ".cache"),
      "baton",
    );
}
