/** Places memory that is not all alive at once: what never lives together may lie in the same bytes. */

export interface Placement {
  readonly offsets: readonly number[];
  /** Bytes from the beginning to the end of the highest. */
  readonly top: number;
}

/**
 * Puts each item, in order, into the lowest gap between those placed before it that are alive together with it.
 *
 * @param order indexes of `bytes`
 * @param together whether two items are alive at the same time
 */
export function placeInGaps(
  bytes: readonly number[],
  order: readonly number[],
  together: (i: number, j: number) => boolean,
): Placement {
  const offsets: number[] = new Array(bytes.length).fill(0);
  const placed: number[] = []; // indexes by offset
  let top = 0;
  for (const i of order) {
    let offset = 0;
    for (const j of placed) {
      if (!together(i, j)) continue;
      if (offsets[j]! - offset >= bytes[i]!) break;
      offset = Math.max(offset, offsets[j]! + bytes[j]!);
    }
    offsets[i] = offset;
    top = Math.max(top, offset + bytes[i]!);
    let low = 0, high = placed.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (offsets[placed[middle]!]! <= offset) low = middle + 1;
      else high = middle;
    }
    placed.splice(low, 0, i);
  }
  return { offsets, top };
}
