/**
 * The house rules as code: who may import whom, what pure folders may touch, how long a file may be.
 * The import table is read from docs/architecture.md, so the document and the gate cannot disagree.
 */
import { codeOnly, importsOf, lineOf, readSources, type Source } from "./source.ts";

/** Folder (or root file) → folders that it may import; `null` means every folder of the table. */
export type ImportTable = ReadonlyMap<string, ReadonlySet<string> | null>;

/** Folders whose code has to run in a browser and give the same result every time (DESIGN §2). */
const PURE = ["ir", "dsl", "compiler", "planner"];
const IMPURE =
  /(?<![.\w$])(?:Deno|Date|performance|fetch|process|crypto|globalThis|setTimeout|setInterval|queueMicrotask|Worker|WebSocket|localStorage)\b(?!\s*\??:)|\bMath\.random\b/g;

/** Most lines of a file. Tests may be longer: their cases are read one by one. */
const longest = (path: string): number => !path.endsWith(".ts") ? 600 : path.startsWith("tests/") ? 400 : 300;
/** Files that may be longer, each with the reason. */
const LONG: Readonly<Record<string, string>> = {};

/** Parses the table of docs/architecture.md: first column folders, third column what they may import. */
export function parseTable(markdown: string): ImportTable {
  const names = (cell: string): string[] => [...cell.matchAll(/`([^`]+)`/g)].map((m) => folderOf(m[1]!));
  const table = new Map<string, Set<string> | null>();
  for (const line of markdown.split("\n")) {
    const cells = line.split("|").slice(1, -1).map((cell) => cell.trim());
    if (cells.length !== 3 || !cells[0]!.startsWith("`")) continue;
    for (const folder of names(cells[0]!)) {
      table.set(folder, cells[2] === "everything" ? null : new Set([folder, ...names(cells[2]!)]));
    }
  }
  if (table.size === 0) {
    throw new Error("Cannot read the import table: docs/architecture.md has no row with a folder");
  }
  return table;
}

/** "ir/op.ts" → "ir". A file of the root stands beside the folder of its name: "run.ts" → "run". */
const folderOf = (path: string): string => path.split("/")[0]!.replace(/\.ts$/, "");

/**
 * Where a specifier leads: a path of the repository, `null` for what lies outside, or a complaint. The library itself says
 * package and version: in a user's folder the user's import map rules, and knows none of our names.
 */
function resolve(
  from: string,
  specifier: string,
  names: ReadonlyMap<string, string>,
  library: boolean,
): string | null | Error {
  if (/^\.\.?\//.test(specifier)) return new URL(specifier, `file:///${from}`).pathname.slice(1);
  if (library && names.get(specifier)?.startsWith("npm:")) {
    return new Error(
      `imports "${specifier}", the library says "${names.get(specifier)}" as deno.json has it`,
    );
  }
  if (library && specifier.startsWith("npm:") && [...names.values()].includes(specifier)) return null;
  const name = [...names.keys()].find((name) => specifier === name || specifier.startsWith(`${name}/`));
  if (name !== undefined) {
    const target = names.get(specifier) ?? names.get(name)!;
    return target.startsWith("./") ? target.slice(2) : null;
  }
  if (specifier.startsWith("node:")) return null;
  return new Error(`imports "${specifier}", name it in deno.json's imports and import that name`);
}

/** Cycles of static imports, each as the files on it. */
export function cycles(edges: ReadonlyMap<string, readonly string[]>): string[][] {
  const done = new Set<string>();
  const found: string[][] = [];
  const visit = (file: string, trail: readonly string[]): void => {
    const at = trail.indexOf(file);
    if (at >= 0) found.push([...trail.slice(at), file]);
    if (at >= 0 || done.has(file)) return;
    for (const next of edges.get(file) ?? []) visit(next, [...trail, file]);
    done.add(file);
  };
  for (const file of edges.keys()) visit(file, []);
  return found;
}

/** Every broken rule, as "path:line: what". `names` are deno.json's imports and the package's own exports. */
export function violations(
  sources: readonly Source[],
  table: ImportTable,
  names: ReadonlyMap<string, string>,
): string[] {
  const bad: string[] = [];
  const paths = new Set(sources.map((source) => source.path));
  const edges = new Map<string, string[]>();
  for (const source of sources) {
    const { path, text } = source;
    const lines = text.split("\n").length - (text.endsWith("\n") ? 1 : 0);
    const most = longest(path);
    if (lines > most && !(path in LONG)) {
      bad.push(
        `${path}:${lines}: has ${lines} lines and ${most} are the most, split it or give a reason in tools/check_imports.ts`,
      );
    }
    if (!path.endsWith(".ts")) continue;
    const code = codeOnly(text);
    const folder = folderOf(path);
    const pure = PURE.includes(folder);
    const allowed = table.get(folder);
    const files: string[] = [];
    for (const { specifier, line, typeOnly, dynamic } of importsOf(source, code)) {
      const target = resolve(path, specifier, names, table.has(folder));
      if (target instanceof Error) bad.push(`${path}:${line}: ${target.message}`);
      else if (target === null) {
        if (pure && specifier.startsWith("node:") && !typeOnly) {
          bad.push(`${path}:${line}: imports "${specifier}", but ${folder}/ has to run in a browser`);
        } else if (folder === "ir") {
          bad.push(`${path}:${line}: imports "${specifier}", but ir/ imports nothing outside itself`);
        }
      } else if (target.endsWith(".ts")) {
        if (!paths.has(target)) bad.push(`${path}:${line}: imports ${target}, which does not exist`);
        if (!dynamic) files.push(target);
        const to = folderOf(target);
        if (!table.has(folder)) continue;
        if (allowed ? !allowed.has(to) : !table.has(to) && to !== "mod") {
          bad.push(
            `${path}:${line}: imports ${target}, but ${folder} may import ${
              allowed ? [...allowed].join(", ") : "only folders of the table"
            }`,
          );
        }
      }
    }
    edges.set(path, files);
    const rule = (pattern: RegExp, why: string): void => {
      for (const match of code.matchAll(pattern)) {
        bad.push(`${path}:${lineOf(code, match.index)}: says ${match[0]}, ${why}`);
      }
    };
    if (pure) rule(IMPURE, `but ${folder}/ touches no clock, file, environment or unseeded randomness`);
    if (folder !== "ffi" && folder !== "tests") rule(/\bDeno\s*\.\s*dlopen\b/g, "which only ffi/ may");
  }
  for (const cycle of cycles(edges)) {
    bad.push(`${cycle[0]}: imports itself through ${cycle.slice(1).join(" → ")}`);
  }
  for (const path of Object.keys(LONG)) {
    if (!paths.has(path)) bad.push(`tools/check_imports.ts: allows ${path} to be long, which does not exist`);
  }
  return bad;
}

/** Names a source may import: deno.json's import map and the package's own name. */
export function importNames(config: {
  readonly name: string;
  readonly imports: Readonly<Record<string, string>>;
  readonly exports: Readonly<Record<string, string>>;
}): ReadonlyMap<string, string> {
  const own = Object.entries(config.exports).map(([key, file]) =>
    [config.name + key.slice(1), file] as const
  );
  return new Map([...Object.entries(config.imports), ...own]);
}

if (import.meta.main) {
  const root = new URL("../", import.meta.url);
  const config = JSON.parse(await Deno.readTextFile(new URL("deno.json", root)));
  const table = parseTable(await Deno.readTextFile(new URL("docs/architecture.md", root)));
  const sources = await readSources(root, [".ts", ".cpp", ".cu", ".h", ".cuh"]);
  const bad = violations(sources, table, importNames(config));
  for (const line of bad) console.error(line);
  console.error(
    bad.length ? `${bad.length} house rules broken` : `House rules hold in ${sources.length} files`,
  );
  if (bad.length) Deno.exit(1);
}
