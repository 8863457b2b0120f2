/** Reading Parquet files, a row group in memory at a time. */
import {
  asyncBufferFromFile,
  type FileMetaData,
  parquetMetadataAsync,
  parquetReadObjects,
} from "npm:hyparquet@1.33.0";
import { compressors } from "npm:hyparquet-compressors@1.1.2";
import type { RawRow } from "./row.ts";

/**
 * The rows of a file as plain JSON values.
 *
 * @param wanted columns to unpack; all where absent
 */
export async function* parquetRows(
  path: string,
  onBytes: (bytes: Uint8Array) => void,
  wanted: (column: string) => boolean = () => true,
): AsyncGenerator<RawRow> {
  for await (const bytes of (await Deno.open(path)).readable) onBytes(bytes);
  const file = await asyncBufferFromFile(path);
  const metadata = await readable(path, () => parquetMetadataAsync(file));
  const columns = columnsOf(metadata).filter(wanted);
  let row = 0;
  for (const group of metadata.row_groups) {
    const range = { rowStart: row, rowEnd: row + Number(group.num_rows) };
    const rows = columns.length === 0
      ? Array.from({ length: Number(group.num_rows) }, () => ({}))
      : await readable(path, () => parquetReadObjects({ file, metadata, columns, compressors, ...range }));
    for (const value of rows) {
      row++;
      yield { at: `${path} row ${row}`, value: () => plain(value) };
    }
  }
}

/** Names of the columns of the first level: the schema is a tree in depth-first order, whose root comes first. */
function columnsOf({ schema }: FileMetaData): string[] {
  const names: string[] = [];
  const skip = (at: number): number => {
    let next = at + 1;
    for (let child = 0; child < (schema[at]?.num_children ?? 0); child++) next = skip(next);
    return next;
  };
  for (let at = 1; at < schema.length; at = skip(at)) names.push(schema[at]!.name);
  return names;
}

async function readable<T>(path: string, read: () => Promise<T>): Promise<T> {
  try {
    return await read();
  } catch (error) {
    throw new Error(
      `Cannot read data: ${path} cannot be read as Parquet (${
        (error as Error).message
      }), copy or download it again`,
      { cause: error },
    );
  }
}

/** 64-bit integers as numbers, lists as arrays, times as text; what is null is absent, as in JSON of other writers. */
function plain(value: unknown): unknown {
  if (typeof value === "bigint") {
    if (!Number.isSafeInteger(Number(value))) throw new SyntaxError(`${value} is too large for a number`);
    return Number(value);
  }
  if (value instanceof Date) return value.toISOString();
  if (ArrayBuffer.isView(value)) return Array.from(value as unknown as ArrayLike<unknown>, plain);
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).filter(([, v]) => v !== null && v !== undefined).map(([k, v]) => [k, plain(v)]),
  );
}
