/** Joining arrays of numbers, however long: an argument list has no room for the tokens of a long context. */

function into<T extends Float32Array | Int32Array>(out: T, parts: readonly ArrayLike<number>[]): T {
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
const lengthOf = (parts: readonly ArrayLike<number>[]): number => parts.reduce((n, p) => n + p.length, 0);

export const joinFloats = (parts: readonly ArrayLike<number>[]): Float32Array<ArrayBuffer> =>
  into(new Float32Array(lengthOf(parts)), parts);
export const joinInts = (parts: readonly ArrayLike<number>[]): Int32Array<ArrayBuffer> =>
  into(new Int32Array(lengthOf(parts)), parts);
