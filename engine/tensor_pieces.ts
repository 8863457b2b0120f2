/**
 * Tensors in pieces: what is in the host's memory of a model on its way between devices and files is bounded, however large its
 * tensors are.
 */
import type { Range } from "../compiler/layout.ts";
import { PANEL } from "../ir/op.ts";

/** Elements of a tensor that pass at once: 4 MiB of f32 numbers. */
export const PIECE = 1 << 20;
/**
 * Host memory that reading or writing a model of any size takes at most. A piece is there as the file has it, as the device has it, in
 * f32, and once more where a rank's rows begin within a panel; the collector may hold some small arrays.
 */
export const PASSING_BYTES = 32 * 2 ** 20;

/**
 * The rows of a tensor in pieces, cut at multiples of PANEL; of a tensor without any dim, one row.
 *
 * @param elements of a piece, but for what its last panel has more
 */
export function* rowPieces(shape: readonly number[], elements: number = PIECE): Generator<Range> {
  const [rows = 1, ...inner] = shape, width = inner.reduce((n, d) => n * d, 1);
  const most = Math.ceil(elements / Math.max(1, width) / PANEL) * PANEL;
  for (let from = 0; from < rows; from += most) yield { from, to: Math.min(rows, from + most) };
}

/** Piece by piece, row-major; an array may be used again for the next one. */
export type Pieces = Iterable<Float32Array> | AsyncIterable<Float32Array>;
/** What somebody gives of a tensor: all of it, or pieces. */
export type TensorValues = Float32Array | Int32Array | Promise<Float32Array | Int32Array> | Pieces;

/** Whatever was given, in pieces. */
export async function* piecesOf(given: TensorValues): AsyncGenerator<Float32Array | Int32Array> {
  const values = await given;
  if (ArrayBuffer.isView(values)) yield values;
  else yield* values;
}

/** Whatever was given, as a whole in an array of its own. */
export async function collected(given: TensorValues, elements: number): Promise<Float32Array> {
  const out = new Float32Array(elements);
  let at = 0;
  for await (const piece of piecesOf(given)) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
}

/**
 * An array that is used again and again: a load or an export of many tensors does not wait for the collector. Whoever takes one gives
 * it to the next by disposing of it.
 */
export class Reused implements Disposable {
  static readonly #free: Reused[] = [];
  #buffer = new ArrayBuffer(0);

  /** One that nobody uses. */
  static take(): Reused {
    return Reused.#free.pop() ?? new Reused();
  }
  [Symbol.dispose](): void {
    Reused.#free.push(this);
  }

  #grown(bytes: number): ArrayBuffer {
    if (this.#buffer.byteLength < bytes) this.#buffer = new ArrayBuffer(bytes);
    return this.#buffer;
  }
  /** Room for so many f32 numbers, with whatever was there before. */
  f32(length: number): Float32Array<ArrayBuffer> {
    return new Float32Array(this.#grown(4 * length), 0, length);
  }
  /** The same for bits of bf16 numbers. */
  bf16(length: number): Uint16Array<ArrayBuffer> {
    return new Uint16Array(this.#grown(2 * length), 0, length);
  }
}
