/**
 * Builds the native CPU library with nothing but a C++ compiler: `deno run -A ffi/build.ts` prints its path. Kernel sources are
 * compiled once per instruction set.
 */
import { join } from "node:path";
import {
  assemble,
  digest,
  findLibrary,
  type Recipe,
  report,
  sourceRoot,
  sourcesOf,
  type Unit,
} from "./objects.ts";

/** Flags of the host's own code, for every library. */
export const FLAGS: readonly string[] = [
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
/** Flags of each instruction set that kernels are compiled for. */
export const INSTRUCTION_SETS: Readonly<Record<string, readonly string[]>> = Deno.build.arch === "x86_64"
  ? {
    generic: [],
    avx2: ["-mavx2", "-mfma", "-mf16c"],
    avx512: ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
  }
  : { generic: [] };

/** The C++ compiler. */
export const cxx = (): string => Deno.env.get("CXX") || "g++";

/** Flags that link a library of which nothing but the C interface is seen. */
export const linkFlags = (): readonly string[] => [
  `-Wl,--version-script=${join(sourceRoot(), "exports.map")}`,
  ...LINK_FLAGS,
];

/** What to do without a C++ compiler. */
export const missingCxx = (): string =>
  `${
    Deno.env.get("CXX") ? `CXX is "${cxx()}", which is not there` : "no C++ compiler found"
  }, install one with \`apt-get install g++\` (or set CXX)`;

/** The digest of every header and the export list, which all objects depend on. */
export function headerDigest(files: readonly string[]): string {
  const all = ["baton.h", "exports.map", ...files.filter((f) => /\.(h|cuh)$/.test(f))];
  return digest(...all.flatMap((f) => [f, Deno.readFileSync(join(sourceRoot(), f))]));
}

/** One compilation of a source below the source root. */
export function unitOf(
  compiler: string,
  file: string,
  flags: readonly string[],
  tag: string,
  headers: string,
): Unit {
  const name = file.slice(file.lastIndexOf("/") + 1).replace(/\.\w+$/, "");
  const text = Deno.readFileSync(join(sourceRoot(), file));
  return {
    compiler,
    args: [...flags, "-c", join(sourceRoot(), file)],
    object: `${name}_${tag}-${
      digest(compiler, headers, file, text, flags.join(" ").replaceAll(sourceRoot(), ""))
    }.o`,
  };
}

/** Reads the sources (a few milliseconds) and says what must exist. */
function recipe(): Recipe {
  const files = sourcesOf(["common", "cpu", "cpu/kernels"]), headers = headerDigest(files);
  const units = files.filter((f) => f.endsWith(".cpp")).flatMap((file) => {
    const sets = file.startsWith("cpu/kernels/") ? INSTRUCTION_SETS : { host: [] };
    return Object.entries(sets).map(([set, machine]) =>
      unitOf(
        cxx(),
        file,
        [...FLAGS, ...machine, ...(set === "host" ? [] : [`-DBATON_ISA=${set}`])],
        set,
        headers,
      )
    );
  });
  return {
    what: "native library",
    units,
    linker: cxx(),
    link: linkFlags(),
    library: `libbaton_cpu-${digest(...units.map((u) => u.object), ...LINK_FLAGS)}.so`,
    missing: missingCxx,
  };
}

/** Path of the library made from the present sources, or `null` when it has yet to be built. */
export const find = (): string | null => findLibrary(recipe().library);

/** Builds what is missing and returns the library's path, see {@link assemble}. */
export const build = (announce: (line: string) => void): Promise<string> => assemble(recipe(), announce);

if (import.meta.main) await report(build);
