/** How far results of two plans are apart. */
import assert from "node:assert/strict";
import type { Batch } from "../../engine/batch.ts";

/** √(Σ(a − b)² ÷ Σb²). */
export function relative(a: Float32Array, b: Float32Array): number {
  let difference = 0, size = 0;
  a.forEach((x, i) => {
    difference += (x - b[i]!) ** 2;
    size += b[i]! ** 2;
  });
  return Math.sqrt(difference / size);
}

export function largest(a: readonly Float32Array[], b: readonly Float32Array[]): number {
  return Math.max(...a.flatMap((row, i) => Array.from(row, (x, j) => Math.abs(x - b[i]![j]!))));
}

export const logprobs = (batch: Batch, name = "logprobs") => {
  const column = batch.numbersOf(name);
  assert.equal(column.per, "token");
  return column.values as readonly Float32Array[];
};
