/** Reading JSON Lines, one JSON object a line with empty lines allowed, and files that are one JSON list. */
import type { RawRow } from "./row.ts";

/** Text of a file in pieces, without holding the file; `onBytes` sees it as stored. */
async function* texts(path: string, onBytes: (bytes: Uint8Array) => void): AsyncGenerator<string> {
  const file = await Deno.open(path);
  const seen = new TransformStream<Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>>({
    transform(bytes, to) {
      onBytes(bytes);
      to.enqueue(bytes);
    },
  });
  const stored = file.readable.pipeThrough(seen);
  const bytes = path.endsWith(".gz") ? stored.pipeThrough(new DecompressionStream("gzip")) : stored;
  yield* bytes.pipeThrough(new TextDecoderStream());
}

/** One row a line. */
export async function* jsonLines(
  path: string,
  onBytes: (bytes: Uint8Array) => void,
): AsyncGenerator<RawRow> {
  let rest = "", line = 0;
  const row = (text: string): RawRow[] => {
    line++;
    return text.trim() === "" ? [] : [{ at: `${path}:${line}`, value: () => JSON.parse(text) }];
  };
  for await (const text of texts(path, onBytes)) {
    const parts = (rest + text).split("\n");
    rest = parts.pop()!;
    for (const part of parts) yield* row(part);
  }
  yield* row(rest);
}

/** One row an element where the file is a JSON list; else it holds lines, whatever its name says. */
export async function* jsonList(path: string, onBytes: (bytes: Uint8Array) => void): AsyncGenerator<RawRow> {
  using file = await Deno.open(path);
  const first = new Uint8Array(1);
  await file.read(first);
  // A compressed file does not show how it begins; public ones are lists.
  if (!path.endsWith(".gz") && first[0] === "{".charCodeAt(0)) return yield* jsonLines(path, onBytes);
  let text = "";
  for await (const part of texts(path, onBytes)) text += part;
  let list: unknown;
  try {
    list = JSON.parse(text);
    if (!Array.isArray(list)) list = [list];
  } catch (error) {
    const value = () => {
      throw error;
    };
    return yield { at: path, value };
  }
  for (const [i, value] of (list as unknown[]).entries()) {
    yield { at: `${path} row ${i + 1}`, value: () => value };
  }
}
