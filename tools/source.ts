/** Reads TypeScript sources for the house rules: which files there are, what they import, and their code without prose. */

/** One source file, by its path from the repository root. */
export interface Source {
  readonly path: string;
  readonly text: string;
}

/** One import or re-export. `line` counts from 1. */
export interface Import {
  readonly specifier: string;
  readonly line: number;
  /** Erased by the compiler (`import type`). */
  readonly typeOnly: boolean;
  /** `import("…")`: happens when it is reached, so it makes no cycle. */
  readonly dynamic: boolean;
}

const IGNORED = new Set(["node_modules", "build", "runs"]);

/** Every file below `root` that ends in one of `extensions` and git would not ignore, sorted by path. */
export async function readSources(root: URL, extensions: readonly string[]): Promise<Source[]> {
  const sources: Source[] = [];
  const visit = async (folder: URL, prefix: string): Promise<void> => {
    for await (const entry of Deno.readDir(folder)) {
      if (entry.name.startsWith(".") || IGNORED.has(entry.name)) continue;
      const path = prefix + entry.name;
      if (entry.isDirectory) await visit(new URL(`${entry.name}/`, folder), `${path}/`);
      else if (entry.isFile && extensions.some((extension) => entry.name.endsWith(extension))) {
        sources.push({ path, text: await Deno.readTextFile(new URL(entry.name, folder)) });
      }
    }
  };
  await visit(root, "");
  return sources.sort((a, b) => a.path < b.path ? -1 : 1);
}

/** Words after which a slash starts a regular expression and not a division. */
const BEFORE_REGEX =
  /(?:^|[(,=:[!&|?{};+\-*%<>~^]|\b(?:return|typeof|case|in|of|void|delete|throw|else|do|yield|await))$/;

/**
 * The same text with comments, the contents of strings and regular expressions replaced by spaces: offsets and line
 * numbers stay, quotes stay, and code inside `${…}` stays.
 */
export function codeOnly(text: string): string {
  const out = text.split("");
  const blank = (from: number, to: number): void => {
    for (let i = from; i < to && i < out.length; i++) if (out[i] !== "\n") out[i] = " ";
  };
  const closing = (from: number, quote: string): number => {
    let i = from;
    while (i < text.length && text[i] !== quote && text[i] !== "\n") i += text[i] === "\\" ? 2 : 1;
    return i;
  };
  /** Scans code up to the brace that closes a template's `${`, or to the end; returns where it stopped. */
  const code = (from: number, inTemplate: boolean): number => {
    let depth = 0;
    let i = from;
    while (i < text.length) {
      const two = text.slice(i, i + 2);
      const c = text[i];
      if (two === "//" || (i === 0 && two === "#!")) {
        const end = text.indexOf("\n", i);
        blank(i, end < 0 ? text.length : end);
        i = end < 0 ? text.length : end;
      } else if (two === "/*") {
        const end = text.indexOf("*/", i + 2);
        blank(i, end < 0 ? text.length : end + 2);
        i = end < 0 ? text.length : end + 2;
      } else if (c === '"' || c === "'") {
        const end = closing(i + 1, c);
        blank(i + 1, end);
        i = end + 1;
      } else if (c === "`") i = template(i + 1);
      else if (c === "/" && BEFORE_REGEX.test(out.slice(Math.max(0, i - 40), i).join("").trimEnd())) {
        i = regex(i);
      } else if (c === "}" && inTemplate && depth === 0) return i;
      else {
        if (c === "{") depth++;
        if (c === "}") depth--;
        i++;
      }
    }
    return i;
  };
  const template = (from: number): number => {
    let i = from;
    while (i < text.length && text[i] !== "`") {
      if (text.startsWith("${", i)) i = code(i + 2, true) + 1;
      else {
        const width = text[i] === "\\" ? 2 : 1;
        blank(i, i + width);
        i += width;
      }
    }
    return i + 1;
  };
  const regex = (from: number): number => {
    let inClass = false;
    let i = from + 1;
    while (i < text.length && text[i] !== "\n" && (inClass || text[i] !== "/")) {
      if (text[i] === "[") inClass = true;
      if (text[i] === "]") inClass = false;
      i += text[i] === "\\" ? 2 : 1;
    }
    blank(from, i + 1);
    return i + 1;
  };
  code(0, false);
  return out.join("");
}

/** Line of an offset, from 1. */
export function lineOf(text: string, offset: number): number {
  return text.slice(0, offset).split("\n").length;
}

const STATIC =
  /\b(?:import|export)\s+(type\s+)?(?:(?:[\w$]+\s*,\s*)?(?:\{[^}]*\}|\*(?:\s*as\s+[\w$]+)?)|[\w$]+)\s*from\s*["']/g;
const BARE = /\bimport\s*["']/g;
const DYNAMIC = /\bimport\s*\(\s*["']/g;

/** Every import and re-export of a file, in order. Reads code only, so an import in a comment or a string is none. */
export function importsOf(source: Source, code = codeOnly(source.text)): Import[] {
  const found: (Import & { readonly at: number })[] = [];
  const collect = (pattern: RegExp, dynamic: boolean): void => {
    for (const match of code.matchAll(pattern)) {
      const start = match.index + match[0].length;
      const end = code.indexOf(code[start - 1] ?? '"', start);
      found.push({
        at: match.index,
        specifier: source.text.slice(start, end),
        line: lineOf(code, match.index),
        typeOnly: match[1] !== undefined,
        dynamic,
      });
    }
  };
  collect(STATIC, false);
  collect(BARE, false);
  collect(DYNAMIC, true);
  return found.sort((a, b) => a.at - b.at).map(({ at: _, ...found }) => found);
}
