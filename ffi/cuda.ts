/** What the CUDA library finds on this machine, beside whatever library the process uses. */
import type { Description } from "./device.ts";
import { text } from "./errors.ts";
import { findCuda, libraryFolders } from "./build_cuda.ts";
import { SYMBOLS, VERSION } from "./symbols.ts";

/** The description of the CUDA library, or `null` when it has not been built or cannot be opened. */
export function describeCuda(): Description | null {
  const path = Deno.env.get("BATON_LIBRARY") || findCuda();
  if (path === null) return null;
  if (!Deno.env.get("BATON_CUDA_LIBRARIES")) Deno.env.set("BATON_CUDA_LIBRARIES", libraryFolders().join(":"));
  try {
    const { symbols } = Deno.dlopen(path, SYMBOLS); // stays open: it may have threads
    const json = new Uint8Array(32768);
    if (symbols.baton_version() !== VERSION || symbols.baton_describe(json, json.length) < 0) return null;
    const found: Description = JSON.parse(text(json));
    return found.backend === "cuda" ? found : null;
  } catch {
    return null;
  }
}
