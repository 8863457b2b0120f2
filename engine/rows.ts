/** Rows of data files: JSON Lines, a JSON list, Parquet. Compressed JSON (`.gz`) is unpacked on the way. */
import { createHash } from "node:crypto";
import { baseName, isObject, join, type JsonObject, parentOf, statOrNull } from "./files.ts";
import { jsonLines, jsonList } from "./jsonl.ts";
import { type RawRow, RowError } from "./row.ts";

export { RowError } from "./row.ts";

/** Violations shown in one message; a broken export has thousands of the same kind. */
const SHOWN = 5;

/** What {@link readRows} found. */
export interface Rows<T> {
  readonly values: readonly T[];
  /** SHA-256 of the files, to notice that they changed between a run and its resumption. */
  readonly digest: string;
}

export interface RowOptions {
  /** Columns that are needed, by their first name; the others of a Parquet file are not unpacked. All where absent. */
  readonly wanted?: (column: string) => boolean;
}

/**
 * Turns every row into a value. A {@link RowError} or a malformed row does not stop the reading: the first few are listed
 * together at the end. `index` counts the values.
 *
 * @param path of a file; one `*` in its name stands for anything: all such files are read, in the order of their names
 */
export async function readRows<T>(
  path: string,
  convert: (row: JsonObject, index: number) => T,
  options: RowOptions = {},
): Promise<Rows<T>> {
  const hash = createHash("sha256");
  const values: T[] = [];
  const problems: string[] = [];
  let broken = 0;
  for (const file of await filesOf(path)) {
    for await (const row of rowsOf(file, (bytes) => hash.update(bytes), options)) {
      try {
        values.push(convert(parsed(row), values.length));
      } catch (error) {
        if (!(error instanceof RowError)) throw error;
        broken++;
        if (problems.length < SHOWN) problems.push(`${row.at}: ${error.message}`);
      }
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

function parsed(row: RawRow): JsonObject {
  let value: unknown;
  try {
    value = row.value();
  } catch (error) {
    throw new RowError(`not valid JSON (${(error as Error).message.replace(/\s+/g, " ").slice(0, 120)})`);
  }
  if (!isObject(value)) throw new RowError("not a JSON object");
  return value;
}

async function* rowsOf(
  file: string,
  onBytes: (bytes: Uint8Array) => void,
  { wanted }: RowOptions,
): AsyncGenerator<RawRow> {
  const name = file.replace(/\.gz$/, "");
  if (name.endsWith(".parquet")) {
    const { parquetRows } = await import("./parquet.ts");
    yield* parquetRows(file, onBytes, wanted);
  } else yield* name.endsWith(".json") ? jsonList(file, onBytes) : jsonLines(file, onBytes);
}

async function filesOf(path: string): Promise<readonly string[]> {
  const pattern = baseName(path);
  if (pattern.includes("*")) {
    const [before, after, more] = pattern.split("*") as [string, string, string?];
    if (more !== undefined) throw new Error(`Cannot read data: ${path} has more than one *, give one`);
    const folder = parentOf(path), found: string[] = [];
    if ((await statOrNull(folder))?.isDirectory) {
      for await (const { name, isFile, isSymlink } of Deno.readDir(folder)) {
        const fits = name.length >= before.length + after.length && name.startsWith(before) &&
          name.endsWith(after);
        if (fits && (isFile || isSymlink)) found.push(join(folder, name));
      }
    }
    if (found.length === 0) {
      throw new Error(`Cannot read data: no file is named as ${path}, give the path of a data file`);
    }
    return found.sort();
  }
  const info = await statOrNull(path);
  if (info === null) {
    throw new Error(
      `Cannot read data: there is no file ${path}, give the path of a JSONL, JSON or Parquet file`,
    );
  }
  if (info.isDirectory) {
    throw new Error(
      `Cannot read data: ${path} is a folder, give a file, or files as ${join(path, "train-*.parquet")}`,
    );
  }
  return [path];
}
