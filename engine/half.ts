/** The two 16-bit float formats of checkpoints, to and from 32 bits. Both directions round to nearest, ties to even. */
import type { Elements } from "../compiler/pieces.ts";
import type { FloatType } from "../ir/op.ts";
import type { Reused } from "./tensor_pieces.ts";

/** Values in f32: themselves, or what bf16 bits stand for, where room is given there. */
export const widened = (values: Elements, reused?: Reused): Float32Array =>
  values instanceof Uint16Array ? fromBfloat16(values, reused?.f32(values.length)) : values;

/** Values as memory of a type has them, where room is given there; what is of that type already stays as it is. */
export function storedAs(values: Elements, dtype: FloatType, reused?: Reused): Elements {
  if (dtype === "f32") return widened(values, reused);
  return values instanceof Uint16Array ? values : toBfloat16(values, reused?.bf16(values.length));
}

/** Room for so many elements of a type. */
export const room = (
  dtype: FloatType,
  length: number,
): Float32Array<ArrayBuffer> | Uint16Array<ArrayBuffer> =>
  dtype === "f32" ? new Float32Array(length) : new Uint16Array(length);

/** bf16 is the upper half of an f32, so widening is exact. */
export function fromBfloat16(
  bits: Uint16Array,
  into: Float32Array<ArrayBuffer> = new Float32Array(bits.length),
): Float32Array<ArrayBuffer> {
  const out = new Int32Array(into.buffer, into.byteOffset, bits.length);
  for (let i = 0; i < bits.length; i++) out[i] = bits[i]! << 16;
  return into;
}

/** A NaN keeps its sign and upper payload and becomes quiet; what is too large becomes infinite. */
export function toBfloat16(
  values: Float32Array,
  out: Uint16Array<ArrayBuffer> = new Uint16Array(values.length),
): Uint16Array<ArrayBuffer> {
  // Signed numbers of 32 bits are never objects: a loop that is not compiled yet leaves no garbage.
  const bits = new Int32Array(values.buffer, values.byteOffset, values.length);
  for (let i = 0; i < bits.length; i++) {
    const b = bits[i]!;
    out[i] = (b & 0x7fffffff) > 0x7f800000 ? (b >>> 16) | 0x40 : (b + 0x7fff + ((b >>> 16) & 1)) >>> 16;
  }
  return out;
}

/** IEEE 754 binary16; widening is exact. */
export function fromFloat16(
  bits: Uint16Array<ArrayBuffer>,
  into: Float32Array<ArrayBuffer> = new Float32Array(bits.length),
): Float32Array<ArrayBuffer> {
  into.set(new Float16Array(bits.buffer, bits.byteOffset, bits.length));
  return into;
}
