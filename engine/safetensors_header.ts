/** The header of the safetensors format: u64 length, then JSON with dtype, shape and place of every tensor. */
import { isObject, readAt } from "./files.ts";

/** Bytes of one element, for every type that the format knows; only some can be read. */
const ELEMENT_BYTES: Readonly<Record<string, number>> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  F64: 8,
  I64: 8,
  U64: 8,
};
const HEADER_LIMIT = 100 * 2 ** 20;
/** Where a tensor lies. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly file: string;
  /** Bytes from the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/** Elements of a shape. */
export const count = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1);
/** "[2, 3]", for messages. */
export const show = (shape: readonly number[]): string => `[${shape.join(", ")}]`;

/**
 * Reads and checks the header of a file: every tensor inside it, of the size that its shape needs, without holes or
 * overlaps. Throws one line that names the file and, where there is one, the tensor.
 */
export async function readHeader(
  path: string,
  file: Deno.FsFile,
): Promise<{ readonly tensors: readonly TensorInfo[]; readonly metadata: Readonly<Record<string, string>> }> {
  const size = (await file.stat()).size;
  const fail = (what: string, wayOut = "copy or download the file again"): never => {
    throw new Error(`Cannot read ${path}: ${what}, ${wayOut}`);
  };
  const prefix = new Uint8Array(8);
  if (!await readAt(file, 0, prefix)) fail(`it has ${size} bytes and is no safetensors file`);
  const length = Number(new DataView(prefix.buffer).getBigUint64(0, true));
  if (length > HEADER_LIMIT) fail(`its header claims ${length} bytes, it is no safetensors file`);
  const text = new Uint8Array(length);
  if (!await readAt(file, 8, text)) {
    fail(`its header needs ${length + 8} bytes and the file has ${size}, it is truncated`);
  }
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(text));
  } catch {
    fail("its header is not JSON, it is no safetensors file");
  }
  if (!isObject(header)) return fail("its header is not a JSON object, it is no safetensors file");
  const start = 8 + length;
  const tensors: TensorInfo[] = [];
  const metadata: Record<string, string> = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") {
      for (const [key, value] of Object.entries(isObject(entry) ? entry : {})) metadata[key] = String(value);
      continue;
    }
    const { dtype, shape, data_offsets: offsets } = isObject(entry) ? entry : {};
    const whole = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;
    if (
      typeof dtype !== "string" || !Array.isArray(shape) || !shape.every(whole) || !Array.isArray(offsets) ||
      offsets.length !== 2 || !offsets.every(whole)
    ) {
      return fail(`tensor ${name} lacks a dtype, a shape or data_offsets`);
    }
    const [begin, end] = offsets as [number, number];
    const width = ELEMENT_BYTES[dtype] ??
      fail(`tensor ${name} has the unknown dtype ${dtype}`, "convert it to F32, BF16 or F16");
    if (end - begin !== count(shape) * width) {
      fail(
        `tensor ${name} of shape ${show(shape)} ${dtype} needs ${count(shape) * width} bytes and has ${
          end - begin
        }`,
      );
    }
    if (start + end > size) {
      fail(`tensor ${name} ends at byte ${start + end} and the file has ${size}, it is truncated`);
    }
    tensors.push({ name, dtype, shape, file: path, offset: start + begin, bytes: end - begin });
  }
  let at = start;
  for (const tensor of [...tensors].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)) {
    if (tensor.offset !== at) fail(`tensor ${tensor.name} begins at byte ${tensor.offset} instead of ${at}`);
    at += tensor.bytes;
  }
  if (at !== size) fail(`its tensors end at byte ${at} and the file has ${size}`);
  return { tensors, metadata };
}

/** A tensor to be written; integers are always I32. */
export interface TensorToWrite {
  readonly name: string;
  readonly shape: readonly number[];
  readonly dtype: "F32" | "BF16" | "I32";
}

/** Length and JSON of the header of a file that holds these tensors in this order; the data begins 8-byte aligned. */
export function formatHeader(
  path: string,
  tensors: readonly TensorToWrite[],
  metadata: Readonly<Record<string, string>>,
): Uint8Array {
  const header: Record<string, unknown> = { __metadata__: metadata };
  let offset = 0;
  for (const { name, dtype, shape } of tensors) {
    if (Object.hasOwn(header, name)) {
      throw new TypeError(`Cannot write ${path}: two tensors are named ${name}`);
    }
    const bytes = count(shape) * (ELEMENT_BYTES[dtype] as number);
    header[name] = { dtype, shape, data_offsets: [offset, offset + bytes] };
    offset += bytes;
  }
  const json = new TextEncoder().encode(JSON.stringify(header));
  const length = Math.ceil(json.length / 8) * 8;
  // The format pads with spaces.
  const bytes = new Uint8Array(8 + length).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(json, 8);
  return bytes;
}
