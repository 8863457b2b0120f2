/**
 * Reading and writing safetensors files. The header is read first and tensors one at a time, so a checkpoint never has to
 * fit in memory. Format: https://github.com/huggingface/safetensors.
 */
import { isObject, join, readAt, readJsonOrNull, statOrNull, writeAll } from "./files.ts";
import { fromBfloat16, fromFloat16, toBfloat16 } from "./half.ts";
import {
  count as elementsOf,
  formatHeader,
  readHeader,
  show,
  type TensorInfo,
  type TensorToWrite,
} from "./safetensors_header.ts";
import { PIECE, piecesOf, Reused, rowPieces, type TensorValues } from "./tensor_pieces.ts";

export type { TensorInfo, TensorToWrite } from "./safetensors_header.ts";

/** An opened checkpoint: one file, or the shards that an index names. Close it (`using`) when done. */
export class Safetensors implements Disposable {
  readonly #files: ReadonlyMap<string, Deno.FsFile>;
  /** What {@link readElements} gives of a part, as the file has it and in f32. */
  readonly #part = Reused.take();
  readonly #wide = Reused.take();

  private constructor(
    /** Every tensor, sorted by name. */
    readonly tensors: ReadonlyMap<string, TensorInfo>,
    /** The `__metadata__` of the files together. */
    readonly metadata: Readonly<Record<string, string>>,
    files: ReadonlyMap<string, Deno.FsFile>,
  ) {
    this.#files = files;
  }

  /**
   * Opens a .safetensors file, or a folder with `model.safetensors` or `model.safetensors.index.json`.
   * Throws when a file is missing, truncated or malformed.
   */
  static async open(path: string): Promise<Safetensors> {
    const paths = await checkpointFiles(path);
    const files = new Map<string, Deno.FsFile>();
    try {
      const tensors = new Map<string, TensorInfo>();
      const metadata: Record<string, string> = {};
      for (const file of paths) {
        const handle = await Deno.open(file);
        files.set(file, handle);
        const header = await readHeader(file, handle);
        Object.assign(metadata, header.metadata);
        for (const tensor of header.tensors) {
          const other = tensors.get(tensor.name);
          if (other !== undefined) {
            throw new Error(
              `Cannot read ${file}: ${other.file} holds a tensor ${tensor.name} too, remove one of the files`,
            );
          }
          tensors.set(tensor.name, tensor);
        }
      }
      const sorted = new Map([...tensors].sort(([a], [b]) => a < b ? -1 : 1));
      return new Safetensors(sorted, metadata, files);
    } catch (error) {
      for (const file of files.values()) file.close();
      throw error;
    }
  }

  /** A tensor of floats (F32, BF16 or F16), row-major, as f32. `shape`, where given, must be the stored one. */
  async read(name: string, shape?: readonly number[]): Promise<Float32Array<ArrayBuffer>> {
    const values = await this.readElements(name, shape);
    return values instanceof Uint16Array ? fromBfloat16(values) : values;
  }

  /** The same some rows at a time, BF16 in its bits, in an array that is used again for the next ones. */
  async *rows(
    name: string,
    shape?: readonly number[],
  ): AsyncGenerator<
    { readonly row: number; readonly values: Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer> }
  > {
    const tensor = this.#find(name, shape), [rows = 1] = tensor.shape;
    const width = elementsOf(tensor.shape) / Math.max(1, rows);
    for (const { from, to } of rowPieces(tensor.shape)) {
      yield {
        row: from,
        values: await this.readElements(name, shape, { from: from * width, count: (to - from) * width }),
      };
    }
  }

  /** The same; a BF16 tensor stays in its bits. Of a part only these elements, in memory that the next such call uses again. */
  async readElements(
    name: string,
    shape?: readonly number[],
    part?: { readonly from: number; readonly count: number },
  ): Promise<Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>> {
    const tensor = this.#find(name, shape);
    const bytes = part ? await this.#partOf(tensor, part.from, part.count) : await this.#bytes(tensor);
    switch (tensor.dtype) {
      case "F32":
        return new Float32Array(bytes.buffer, 0, bytes.length / 4);
      case "BF16":
        return new Uint16Array(bytes.buffer, 0, bytes.length / 2);
      case "F16": {
        const n = bytes.length / 2;
        return fromFloat16(new Uint16Array(bytes.buffer, 0, n), part ? this.#wide.f32(n) : undefined);
      }
      default:
        throw new TypeError(
          `Cannot read ${name} of ${tensor.file}: it has dtype ${tensor.dtype}, only F32, BF16 and F16 are read as floats`,
        );
    }
  }

  /** A tensor of integers (I32, or I64 whose values fit), row-major. */
  async readIntegers(name: string, shape?: readonly number[]): Promise<Int32Array<ArrayBuffer>> {
    const tensor = this.#find(name, shape);
    if (tensor.dtype === "I32") return new Int32Array((await this.#bytes(tensor)).buffer);
    if (tensor.dtype !== "I64") {
      throw new TypeError(
        `Cannot read ${name} of ${tensor.file}: it has dtype ${tensor.dtype}, only I32 and I64 are read as integers`,
      );
    }
    const wide = new BigInt64Array((await this.#bytes(tensor)).buffer);
    return Int32Array.from(wide, (value) => {
      if (BigInt.asIntN(32, value) !== value) {
        throw new RangeError(`Cannot read ${name} of ${tensor.file}: ${value} does not fit 32 bits`);
      }
      return Number(value);
    });
  }

  [Symbol.dispose](): void {
    for (const file of this.#files.values()) file.close();
    this.#part[Symbol.dispose](), this.#wide[Symbol.dispose]();
  }

  #find(name: string, shape: readonly number[] | undefined): TensorInfo {
    const tensor = this.tensors.get(name);
    if (tensor === undefined) {
      throw new Error(`Cannot read ${name}: ${[...this.#files.keys()].join(", ")} has no such tensor`);
    }
    if (shape !== undefined && show(shape) !== show(tensor.shape)) {
      throw new RangeError(
        `Cannot read ${name} of ${tensor.file}: it has shape ${show(tensor.shape)}, ${
          show(shape)
        } is expected`,
      );
    }
    return tensor;
  }

  #bytes(tensor: TensorInfo): Promise<Uint8Array<ArrayBuffer>> {
    return this.#fill(tensor, 0, new Uint8Array(tensor.bytes));
  }

  /** Elements of a tensor in the one array that is kept for them. */
  #partOf(tensor: TensorInfo, from: number, count: number): Promise<Uint8Array<ArrayBuffer>> {
    const width = tensor.bytes / Math.max(1, elementsOf(tensor.shape)), bytes = width * count;
    const { buffer } = this.#part.f32(Math.ceil(bytes / 4));
    return this.#fill(tensor, width * from, new Uint8Array(buffer, 0, bytes));
  }

  async #fill(
    tensor: TensorInfo,
    offset: number,
    bytes: Uint8Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>> {
    // The size was checked when the file was opened: falling short means that it changed since.
    if (!await readAt(this.#files.get(tensor.file)!, tensor.offset + offset, bytes)) {
      throw new Error(
        `Cannot read ${tensor.name} of ${tensor.file}: the file became shorter while it was read`,
      );
    }
    return bytes;
  }
}

/** The files of a checkpoint: the path itself, or what its folder holds. */
async function checkpointFiles(path: string): Promise<readonly string[]> {
  const info = await statOrNull(path);
  if (info === null) throw new Error(`Cannot open checkpoint ${path}: there is no such file or folder`);
  if (!info.isDirectory) return [path];
  const single = join(path, "model.safetensors");
  if (await statOrNull(single) !== null) return [single];
  const indexPath = `${single}.index.json`;
  const index = await readJsonOrNull(indexPath);
  if (index === null) {
    throw new Error(
      `Cannot open checkpoint ${path}: it has neither model.safetensors nor model.safetensors.index.json, convert it to safetensors first`,
    );
  }
  if (!isObject(index["weight_map"])) {
    throw new Error(`Cannot read ${indexPath}: it has no weight_map, copy or download it again`);
  }
  const names = [...new Set(Object.values(index["weight_map"]))].sort();
  const missing: string[] = [];
  const shards: string[] = [];
  for (const name of names) {
    // A checkpoint comes from others: its index must not reach outside its folder.
    if (typeof name !== "string" || /[/\\]/.test(name)) {
      throw new Error(
        `Cannot read ${indexPath}: ${JSON.stringify(name)} is no file name, copy or download it again`,
      );
    }
    const shard = join(path, name);
    shards.push(shard);
    if (await statOrNull(shard) === null) missing.push(name);
  }
  if (missing.length > 0) {
    throw new Error(
      `Cannot open checkpoint ${path}: the index names ${
        missing.join(", ")
      }, which the folder lacks, copy or download them`,
    );
  }
  return shards;
}

/**
 * Writes a file tensor by tensor: `source` is asked for one tensor after the other, in the order of their names, and for
 * the next piece only when the last is on its way to disk. The file is synced before this returns.
 */
export async function writeSafetensors(
  path: string,
  tensors: readonly TensorToWrite[],
  source: (name: string) => TensorValues,
  metadata: Readonly<Record<string, string>> = { format: "pt" },
): Promise<void> {
  const sorted = [...tensors].sort((a, b) => a.name < b.name ? -1 : 1);
  using file = await Deno.open(path, { write: true, create: true, truncate: true });
  await writeAll(file, formatHeader(path, sorted, metadata));
  using rounded = Reused.take();
  for (const { name, dtype, shape } of sorted) {
    const expected = elementsOf(shape),
      refuse = (values: string): never => {
        throw new TypeError(
          `Cannot write ${name} to ${path}: the source gave ${values}, ${show(shape)} ${dtype} is expected`,
        );
      };
    let given = 0;
    for await (const data of piecesOf(source(name))) {
      given += data.length;
      if (given > expected || (dtype === "I32") !== (data instanceof Int32Array)) {
        refuse(`${given} values of ${data.constructor.name}`);
      }
      if (dtype !== "BF16") await writeAll(file, bytesOf(data));
      else {for (let i = 0; i < data.length; i += PIECE) {
          const piece = (data as Float32Array).subarray(i, i + PIECE);
          await writeAll(file, bytesOf(toBfloat16(piece, rounded.bf16(piece.length))));
        }}
    }
    if (given !== expected) refuse(`${given} values`);
  }
  await file.sync();
}

const bytesOf = (data: ArrayBufferView): Uint8Array =>
  new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/**
 * Compares a checkpoint with what is expected of it and returns every difference, as sentences: missing tensors, tensors
 * of another shape or of no float type, and unexpected ones.
 */
export function checkTensors(
  found: ReadonlyMap<string, TensorInfo>,
  expected: readonly { readonly name: string; readonly shape: readonly number[] }[],
  accept: { readonly missing?: (name: string) => boolean; readonly unexpected?: (name: string) => boolean } =
    {},
): readonly string[] {
  const names = new Set(expected.map((tensor) => tensor.name));
  const problems: string[] = [];
  for (const { name, shape } of expected) {
    const tensor = found.get(name);
    if (tensor === undefined) {
      if (!accept.missing?.(name)) problems.push(`${name} ${show(shape)} is missing`);
    } else if (show(tensor.shape) !== show(shape)) {
      problems.push(`${name} has shape ${show(tensor.shape)} instead of ${show(shape)}`);
    } else if (!["F32", "BF16", "F16"].includes(tensor.dtype)) {
      problems.push(`${name} has dtype ${tensor.dtype} instead of F32, BF16 or F16`);
    }
  }
  for (const name of found.keys()) {
    if (!names.has(name) && !accept.unexpected?.(name)) problems.push(`${name} is unexpected`);
  }
  return problems;
}
