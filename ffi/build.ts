/**
 * Builds the native CPU library with nothing but a C++ compiler: `deno run -A ffi/build.ts` prints its path.
 *
 * Kernel sources are compiled once per instruction set. Objects and the library carry the SHA-256 of what they were made
 * from in their names, so nothing is ever stale, and each appears by a rename, so two processes may build at once.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const FLAGS = [
  "-std=c++17",
  "-O3",
  "-fPIC",
  "-fvisibility=hidden",
  "-ffp-contract=off",
  "-fno-math-errno",
  "-w",
];
/** A process that ends unloads its libraries while worker threads still wait inside: nodelete keeps their code in place. */
const LINK_FLAGS = ["-shared", "-Wl,-z,nodelete", "-lpthread"];
const INSTRUCTION_SETS: Readonly<Record<string, readonly string[]>> = Deno.build.arch === "x86_64"
  ? {
    generic: [],
    avx2: ["-mavx2", "-mfma", "-mf16c"],
    avx512: ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
  }
  : { generic: [] };

/** One run of the compiler. */
interface Unit {
  readonly source: string;
  readonly flags: readonly string[];
  /** File name of the object, with its digest. */
  readonly object: string;
}

interface Recipe {
  readonly units: readonly Unit[];
  /** The linker's list of what is visible. */
  readonly exports: string;
  /** File name of the library, with its digest. */
  readonly library: string;
}

const compiler = (): string => Deno.env.get("CXX") || "g++";
const digest = (...parts: readonly (string | Uint8Array)[]): string => {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part).update("\0");
  return hash.digest("hex").slice(0, 20);
};

/** Reads the sources (a few milliseconds) and says what must exist. */
function recipe(): Recipe {
  const root = fileURLToPath(new URL("../cuda", import.meta.url));
  const folders = ["common", "cpu", "cpu/kernels"];
  const files = folders.flatMap((folder) =>
    [...Deno.readDirSync(join(root, folder))].map((entry) => `${folder}/${entry.name}`)
  ).sort();
  const read = (file: string) => Deno.readFileSync(join(root, file));
  const headers = digest(
    ...["baton.h", ...files.filter((f) => f.endsWith(".h"))].flatMap((f) => [f, read(f)]),
  );
  const units = files.filter((f) => f.endsWith(".cpp")).flatMap((file) => {
    const text = read(file);
    const sets = file.startsWith("cpu/kernels/") ? INSTRUCTION_SETS : { host: [] };
    return Object.entries(sets).map(([set, machine]) => {
      const flags = [...FLAGS, ...machine, ...(set === "host" ? [] : [`-DBATON_ISA=${set}`])];
      const name = file.slice(file.lastIndexOf("/") + 1, -4);
      return {
        source: join(root, file),
        flags,
        object: `${name}_${set}-${digest(compiler(), headers, file, text, flags.join(" "))}.o`,
      };
    });
  });
  const exports = read("exports.map"), objects = units.map((u) => u.object);
  const library = `libbaton_cpu-${digest(...objects, ...LINK_FLAGS, exports)}.so`;
  return { units, exports: join(root, "exports.map"), library };
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

/** Path of the library made from the present sources, or `null` when it has yet to be built. */
export function find(): string | null {
  const { library } = recipe();
  return folders().map((folder) => join(folder, library)).find(exists) ?? null;
}

function writable(folder: string): boolean {
  try {
    Deno.mkdirSync(join(folder, "objects"), { recursive: true });
    Deno.removeSync(Deno.makeTempFileSync({ dir: folder }));
    return true;
  } catch {
    return false;
  }
}

async function compile(args: readonly string[], output: string): Promise<void> {
  const temporary = `${output}.${Deno.pid}`;
  const result = await run([...args, "-o", temporary]);
  if (!result.success) {
    const text = new TextDecoder().decode(result.stderr).trim();
    throw new Error(`Cannot build the native library: ${compiler()} failed on ${output}\n${text}`);
  }
  await Deno.rename(temporary, output);
}

async function run(args: string[]): Promise<Deno.CommandOutput> {
  try {
    return await new Deno.Command(compiler(), { args, stdout: "null", stderr: "piped" }).output();
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    const missing = Deno.env.get("CXX")
      ? `CXX is "${compiler()}", which is not there`
      : "no C++ compiler found";
    throw new Error(
      `Cannot build the native library: ${missing}, install one with \`apt-get install g++\` (or set CXX)`,
      { cause },
    );
  }
}

/**
 * Builds what is missing and returns the library's path; a second call with unchanged sources only reads them.
 * @param announce Called once with a line for the user when there is something to build.
 * @throws Error when there is no compiler, it fails, or no folder can be written.
 */
export async function build(announce: (line: string) => void): Promise<string> {
  const found = find();
  if (found) return found;
  const { units, exports, library } = recipe();
  const folder = folders().find(writable);
  if (!folder) {
    throw new Error(
      `Cannot build the native library: ${folders().join(" and ")} cannot be written, set XDG_CACHE_HOME`,
    );
  }
  const path = (unit: Unit) => join(folder, "objects", unit.object);
  const missing = units.filter((unit) => !exists(path(unit)));
  announce(
    `Building the native library (${missing.length} of ${units.length} objects, only after a change of its sources)`,
  );
  const queue = [...missing];
  const worker = async () => {
    for (let unit = queue.shift(); unit; unit = queue.shift()) {
      await compile([...unit.flags, "-c", unit.source], path(unit));
    }
  };
  await Promise.all(Array.from({ length: Math.max(1, navigator.hardwareConcurrency) }, worker));
  await compile(
    [...units.map(path), `-Wl,--version-script=${exports}`, ...LINK_FLAGS],
    join(folder, library),
  );
  return join(folder, library);
}

if (import.meta.main) {
  try {
    console.log(await build(Deno.args.includes("--silent") ? () => {} : console.error));
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    Deno.exit(1);
  }
}
