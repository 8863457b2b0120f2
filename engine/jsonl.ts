/** Reading JSON Lines: one JSON object a line, empty lines allowed, `.gz` unpacked on the way. */
import { createHash } from "node:crypto";
import { isObject, type JsonObject, statOrNull } from "./files.ts";

/** Violations shown in one message; a broken export has thousands of the same kind. */
const SHOWN = 5;

/** Something about one line, as `file:line: what`. */
export class LineError extends Error {
  override readonly name = "LineError";
}

/** Text of a file, line by line, without holding the file; `onBytes` sees it as stored. */
async function* lines(path: string, onBytes: (bytes: Uint8Array) => void): AsyncGenerator<string> {
  const info = await statOrNull(path);
  if (info === null) {
    throw new Error(`Cannot read data: there is no file ${path}, give the path of a JSONL file`);
  }
  if (info.isDirectory) throw new Error(`Cannot read data: ${path} is a folder, give a file of JSON lines`);
  const file = await Deno.open(path);
  const seen = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
    transform(bytes, to) {
      onBytes(bytes);
      to.enqueue(bytes);
    },
  });
  const stored = file.readable.pipeThrough(seen);
  const bytes = path.endsWith(".gz") ? stored.pipeThrough(new DecompressionStream("gzip")) : stored;
  let rest = "";
  for await (const text of bytes.pipeThrough(new TextDecoderStream())) {
    const parts = (rest + text).split("\n");
    rest = parts.pop()!;
    yield* parts;
  }
  if (rest !== "") yield rest;
}

/** What {@link readJsonLines} found. */
export interface JsonLines<T> {
  readonly values: readonly T[];
  /** SHA-256 of the file, to notice that it changed between a run and its resumption. */
  readonly digest: string;
}

/**
 * Turns every line into a value. A {@link LineError} or a malformed line does not stop the reading: the first few are
 * listed together at the end. `index` counts the values, `line` the lines from 1.
 */
export async function readJsonLines<T>(
  path: string,
  convert: (object: JsonObject, index: number) => T,
): Promise<JsonLines<T>> {
  const hash = createHash("sha256");
  const values: T[] = [];
  const problems: string[] = [];
  let line = 0, broken = 0;
  for await (const text of lines(path, (bytes) => hash.update(bytes))) {
    line++;
    if (text.trim() === "") continue;
    try {
      values.push(convert(parseLine(text), values.length));
    } catch (error) {
      if (!(error instanceof LineError)) throw error;
      broken++;
      if (problems.length < SHOWN) problems.push(`${path}:${line}: ${error.message}`);
    }
  }
  if (broken > 0) {
    const more = broken > problems.length ? `; and ${broken - problems.length} more lines` : "";
    throw new Error(`Cannot read data: ${problems.join("; ")}${more}, repair or remove what is named`);
  }
  if (values.length === 0) {
    throw new Error(`Cannot read data: ${path} holds no line, give one JSON object per line`);
  }
  return { values, digest: hash.digest("hex") };
}

function parseLine(text: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new LineError(`not valid JSON (${(error as Error).message.replace(/\s+/g, " ").slice(0, 120)})`);
  }
  if (!isObject(value)) throw new LineError("not a JSON object");
  return value;
}
