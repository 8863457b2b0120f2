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

/** When an item is alive: from `start` to `end`. */
export interface Span {
  readonly start: number;
  readonly end: number;
}

/**
 * Puts each item, in the order in which they begin, into the smallest gap below `ceiling` between those that are alive then, at the
 * side whose neighbour ends last: so room that becomes free is in one piece. What has no room there goes above all others.
 */
export function placeBesideLasting(
  bytes: readonly number[],
  spans: readonly Span[],
  ceiling: number,
): Placement {
  const offsets: number[] = new Array(bytes.length).fill(0);
  const order = bytes.map((_, i) => i).sort((i, j) =>
    spans[i]!.start - spans[j]!.start || bytes[j]! - bytes[i]! || i - j
  );
  let alive: number[] = [], top = 0; // indexes by offset
  for (const i of order) {
    alive = alive.filter((j) => spans[j]!.end >= spans[i]!.start);
    let at = 0, least = Infinity, low = 0, below = Infinity;
    for (let k = 0; k <= alive.length; k++) {
      const j = alive[k],
        high = j === undefined ? ceiling : offsets[j]!,
        above = j === undefined ? Infinity : spans[j]!.end;
      if (high - low >= bytes[i]! && high - low < least) {
        least = high - low;
        at = below >= above ? low : high - bytes[i]!;
      }
      if (j !== undefined) [low, below] = [offsets[j]! + bytes[j]!, above];
    }
    offsets[i] = least < Infinity ? at : low;
    top = Math.max(top, offsets[i]! + bytes[i]!);
    const behind = alive.findIndex((j) => offsets[j]! > offsets[i]!);
    alive.splice(behind < 0 ? alive.length : behind, 0, i);
  }
  return { offsets, top };
}
