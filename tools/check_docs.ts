/**
 * Documents that hold: every exported symbol of mod.ts says what it is, every exported function shows how it is used,
 * links between documents lead somewhere, and docs/errors.md knows every kind of message. The examples themselves are run by `deno test --doc`.
 */
import { readSources, type Source } from "./source.ts";

/** The part of `deno doc --json` (version 2) that is read here. */
export interface DocJson {
  readonly version: number;
  readonly nodes: Readonly<Record<string, { readonly symbols: readonly DocSymbol[] }>>;
}
interface DocSymbol {
  readonly name: string;
  readonly declarations: readonly {
    readonly kind: string;
    readonly jsDoc?: { readonly doc?: string; readonly tags?: readonly { readonly doc?: string }[] };
    readonly location: { readonly filename: string; readonly line: number };
  }[];
}

/** Exported symbols without a doc comment, and functions without a ```ts example. */
export function undocumented(docs: DocJson): string[] {
  if (docs.version !== 2) {
    throw new Error(`Cannot read deno doc --json: version ${docs.version}, this check knows version 2`);
  }
  const bad: string[] = [];
  for (const { symbols } of Object.values(docs.nodes)) {
    for (const { name, declarations } of symbols) {
      const text = declarations.flatMap((
        { jsDoc },
      ) => [jsDoc?.doc, ...(jsDoc?.tags ?? []).map((tag) => tag.doc)])
        .join("\n");
      const first = declarations[0];
      // What is passed on from a package is explained there.
      if (/\/npm\/[^/]+\//.test(first?.location.filename ?? "")) continue;
      const where = first ? `${first.location.filename}:${first.location.line}` : "mod.ts";
      if (text.trim() === "") bad.push(`${where}: ${name} has no doc comment`);
      else if (declarations.some((d) => d.kind === "function") && !text.includes("```ts")) {
        bad.push(`${where}: ${name} has no \`\`\`ts example`);
      }
    }
  }
  return bad;
}

/** Relative links of a Markdown file that lead to no file, and anchors that no heading of the target makes. */
export function brokenLinks(source: Source, files: ReadonlyMap<string, string | null>): string[] {
  const bad: string[] = [];
  let fenced = false;
  for (const [index, line] of source.text.split("\n").entries()) {
    if (line.trimStart().startsWith("```")) fenced = !fenced;
    if (fenced) continue;
    for (const match of line.replace(/`[^`]*`/g, "").matchAll(/\]\(([^)\s]+)\)/g)) {
      const link = match[1]!;
      if (/^[a-z]+:/.test(link)) continue;
      const [path = "", anchor] = link.split("#");
      const target = path === "" ? source.path : decodeURIComponent(
        new URL(path, `file:///${source.path}`).pathname.slice(1).replace(/\/$/, ""),
      );
      const where = `${source.path}:${index + 1}: links to ${link}`;
      if (!files.has(target)) bad.push(`${where}, which does not exist`);
      else if (anchor !== undefined && !headings(files.get(target) ?? "").has(anchor)) {
        bad.push(`${where}, and ${target} has no such heading`);
      }
    }
  }
  return bad;
}

/** Anchors of a Markdown text, made from its headings as GitHub makes them. */
function headings(markdown: string): Set<string> {
  const slugs = [...markdown.matchAll(/^#+ +(.+)$/gm)].map((m) =>
    m[1]!.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, "").replaceAll(" ", "-")
  );
  return new Set(slugs);
}

/** Folders whose messages docs/errors.md lists. */
const SPEAKING = /^(?:ir|dsl|compiler|planner|engine|ffi|run|cli)(?:\.ts|\/)/;

/** Messages, by their first verb, that the page of errors misses, and verbs of the page that no message begins with. */
export function unlistedErrors(sources: readonly Source[], page: string): string[] {
  const verbs = (text: string): string[] =>
    [...text.matchAll(/\bCannot ([a-z]+)/g)].map((match) => match[1]!);
  const listed = new Set(verbs(page));
  const said = new Map<string, string>();
  for (const { path, text } of sources) {
    if (!path.endsWith(".ts") || !SPEAKING.test(path)) continue;
    for (const verb of verbs(text)) if (!said.has(verb)) said.set(verb, path);
  }
  return [
    ...[...said].filter(([verb]) => !listed.has(verb)).map(([verb, path]) =>
      `${path}: says "Cannot ${verb}", which docs/errors.md does not explain`
    ),
    ...[...listed].filter((verb) => !said.has(verb)).map((verb) =>
      `docs/errors.md: explains "Cannot ${verb}", which nothing says`
    ),
  ];
}

/** Every path of the repository: Markdown with its text, other files and folders with `null`. */
async function listFiles(root: URL, documents: readonly Source[]): Promise<Map<string, string | null>> {
  const files = new Map<string, string | null>();
  const { stdout } = await new Deno.Command("git", {
    args: ["ls-files", "--cached", "--others", "--exclude-standard"],
    cwd: root,
  }).output();
  for (const path of new TextDecoder().decode(stdout).split("\n")) {
    const parts = path.split("/");
    for (let n = 1; n <= parts.length; n++) files.set(parts.slice(0, n).join("/"), null);
  }
  for (const { path, text } of documents) files.set(path, text);
  return files;
}

async function publicDocs(root: URL): Promise<DocJson> {
  const command = new Deno.Command(Deno.execPath(), { args: ["doc", "--json", "mod.ts"], cwd: root });
  const { success, stdout, stderr } = await command.output();
  if (!success) {
    throw new Error(`Cannot read the documentation of mod.ts: ${new TextDecoder().decode(stderr).trim()}`);
  }
  return JSON.parse(new TextDecoder().decode(stdout));
}

if (import.meta.main) {
  const root = new URL("../", import.meta.url);
  const documents = await readSources(root, [".md"]);
  const files = await listFiles(root, documents);
  const bad = [
    ...undocumented(await publicDocs(root)).map((line) => line.replace(root.href, "")),
    ...documents.flatMap((source) => brokenLinks(source, files)),
    ...unlistedErrors(await readSources(root, [".ts"]), files.get("docs/errors.md") ?? ""),
  ];
  for (const line of bad) console.error(line);
  console.error(bad.length ? `${bad.length} faults in documents` : `${documents.length} documents hold`);
  if (bad.length) Deno.exit(1);
}
