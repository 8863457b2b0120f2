/**
 * Compiles objects side by side and links them. Objects and libraries carry the SHA-256 of what they were made from in
 * their names, so nothing is ever stale, and each appears by a rename, so several processes and threads may build at once.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

/** One run of a compiler; `args` are all but the output. */
export interface Unit {
  readonly compiler: string;
  readonly args: readonly string[];
  /** File name of the object, with its digest. */
  readonly object: string;
}

/** What makes a library. */
export interface Recipe {
  /** "native library", in messages. */
  readonly what: string;
  readonly units: readonly Unit[];
  readonly linker: string;
  /** After the objects. */
  readonly link: readonly string[];
  /** File name, with its digest. */
  readonly library: string;
  /** What to do when a compiler is not there. */
  readonly missing: (compiler: string) => string;
}

/** A short name for content. */
export const digest = (...parts: readonly (string | Uint8Array)[]): string => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part).update("\0");
  return hash.digest("hex").slice(0, 20);
};

/** The folder of the native sources. */
export const sourceRoot = (): string => fileURLToPath(new URL("../cuda", import.meta.url));

/** Files of some folders below {@link sourceRoot}, as paths from there, sorted. */
export function sourcesOf(folders: readonly string[]): string[] {
  const root = sourceRoot();
  return folders.flatMap((folder) =>
    [...Deno.readDirSync(join(root, folder))].filter((entry) => entry.isFile).map((entry) =>
      `${folder}/${entry.name}`
    )
  ).sort();
}

/** Folders that may hold the library: the repository's, else the user's cache when the repository cannot be written. */
function folders(): readonly string[] {
  const cache = Deno.env.get("XDG_CACHE_HOME") || join(Deno.env.get("HOME") || "/tmp", ".cache");
  return [fileURLToPath(new URL("../build", import.meta.url)), join(cache, "baton")];
}

const exists = (path: string): boolean => {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
};

/** Path of a library that is there, or `null`. */
export const findLibrary = (library: string): string | null =>
  folders().map((folder) => join(folder, library)).find(exists) ?? null;

function writable(folder: string): boolean {
  try {
    Deno.mkdirSync(join(folder, "objects"), { recursive: true });
    Deno.removeSync(Deno.makeTempFileSync({ dir: folder }));
    return true;
  } catch {
    return false;
  }
}

async function compile(
  recipe: Recipe,
  compiler: string,
  args: readonly string[],
  output: string,
): Promise<void> {
  const temporary = `${output}.${crypto.randomUUID()}`;
  let result: Deno.CommandOutput;
  try {
    result = await new Deno.Command(compiler, {
      args: [...args, "-o", temporary],
      stdout: "null",
      stderr: "piped",
    }).output();
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw new Error(`Cannot build the ${recipe.what}: ${recipe.missing(compiler)}`, { cause });
  }
  if (!result.success) {
    const text = new TextDecoder().decode(result.stderr).trim();
    throw new Error(`Cannot build the ${recipe.what}: ${compiler} failed on ${output}\n${text}`);
  }
  await Deno.rename(temporary, output);
}

/**
 * Builds what is missing and returns the library's path; a second call with unchanged sources only reads them.
 * @param announce Called once with a line for the user when there is something to build.
 * @throws Error when there is no compiler, it fails, or no folder can be written.
 */
export async function assemble(recipe: Recipe, announce: (line: string) => void): Promise<string> {
  const { what, units, linker, link, library } = recipe;
  const found = findLibrary(library);
  if (found) return found;
  const folder = folders().find(writable);
  if (!folder) {
    throw new Error(
      `Cannot build the ${what}: ${folders().join(" and ")} cannot be written, set XDG_CACHE_HOME`,
    );
  }
  const path = (unit: Unit) => join(folder, "objects", unit.object);
  const queue = units.filter((unit) => !exists(path(unit)));
  announce(
    `Building the ${what} (${queue.length} of ${units.length} objects, only after a change of its sources)`,
  );
  const worker = async () => {
    for (let unit = queue.shift(); unit; unit = queue.shift()) {
      await compile(recipe, unit.compiler, unit.args, path(unit));
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, navigator.hardwareConcurrency) }, worker));
  await compile(recipe, linker, [...units.map(path), ...link], join(folder, library));
  return join(folder, library);
}

/** The end of a build script: prints the path, or one line and exit code 1. */
export async function report(build: (announce: (line: string) => void) => Promise<string>): Promise<void> {
  try {
    console.log(await build(Deno.args.includes("--silent") ? () => {} : console.error));
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    Deno.exit(1);
  }
}
