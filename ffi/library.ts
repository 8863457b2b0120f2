/** Finds, builds on first use, and opens the native library. */
import { find } from "./build.ts";
import { SYMBOLS, VERSION } from "./symbols.ts";

export type Native = Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];

let opened: Native | undefined;

/**
 * The native functions. The library stays open until the process ends: closing it while a call is in flight would crash.
 * @throws Error when it cannot be built or opened, or has another version than this TypeScript.
 */
export function native(): Native {
  if (opened) return opened;
  const path = Deno.env.get("BATON_LIBRARY") || (find() ?? buildInChild());
  let symbols: Native;
  try {
    symbols = Deno.dlopen(path, SYMBOLS).symbols;
  } catch (cause) {
    throw new Error(`Cannot open the native library: ${cause instanceof Error ? cause.message : cause}`, {
      cause,
    });
  }
  const version = symbols.baton_version();
  if (version !== VERSION) {
    throw new Error(
      `Cannot use ${path}: it has version ${version} and ${VERSION} is needed, delete it to build it again`,
    );
  }
  return opened = symbols;
}

/** Compilers run side by side, which takes promises; opening a device takes none. So another process builds. */
function buildInChild(): string {
  console.error("Building the native library (once, about half a minute)");
  const script = new URL("./build.ts", import.meta.url).href;
  const args = ["run", "-A", "--quiet", script, "--silent"];
  const child = new Deno.Command(Deno.execPath(), { args, stdout: "piped", stderr: "piped" }).outputSync();
  const [output, message] = [child.stdout, child.stderr].map((bytes) =>
    new TextDecoder().decode(bytes).trim()
  );
  if (!child.success) throw new Error(message || "Cannot build the native library: the build ended early");
  return output!;
}
