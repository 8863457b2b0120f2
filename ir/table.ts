/** Measured seconds on a grid of sizes, and what lies between and beyond its points. */

/** Seconds at every combination of the axes' points; the last axis varies fastest. */
export interface Table {
  /** Ascending, positive. */
  readonly axes: readonly (readonly number[])[];
  readonly seconds: readonly number[];
}

/** Where a coordinate lies on an axis: between points `at` and `at + 1`, `share` of the way, times `beyond` the end. */
interface Place {
  readonly at: number;
  readonly share: number;
  readonly beyond: number;
}

function placeOn(axis: readonly number[], x: number): Place {
  const last = axis.length - 1;
  if (x <= axis[0]! || last === 0) {
    return { at: 0, share: 0, beyond: last === 0 ? Math.max(1, x / axis[0]!) : 1 };
  }
  if (x >= axis[last]!) return { at: last - 1, share: 1, beyond: x / axis[last]! };
  let low = 0, high = last;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (axis[middle]! <= x) low = middle;
    else high = middle;
  }
  const from = axis[low]!, to = axis[high]!;
  return { at: low, share: Math.log(x / from) / Math.log(to / from), beyond: 1 };
}

/**
 * Seconds at a point: linear in the logarithms between measured points, in proportion beyond the largest of an axis, and
 * never less than at the smallest. Grows with every coordinate where the measurements do, see {@link monotone}.
 *
 * @param at one coordinate for each axis; 0 or less is as the smallest
 */
export function lookUp({ axes, seconds }: Table, at: readonly number[]): number {
  const places = axes.map((axis, i) => placeOn(axis, Math.max(at[i]!, 0)));
  let log = 0, beyond = 1;
  for (const p of places) beyond *= p.beyond;
  for (let corner = 0; corner < 1 << axes.length; corner++) {
    let weight = 1, index = 0;
    for (let i = 0; i < axes.length; i++) {
      const up = corner >> i & 1, p = places[i]!;
      weight *= up ? p.share : 1 - p.share;
      index = index * axes[i]!.length + p.at + up;
      if (weight === 0) break;
    }
    if (weight > 0) log += weight * Math.log(seconds[index]!);
  }
  return Math.exp(log) * beyond;
}

/** The table in which no larger size is faster than a smaller one: noise that says so is lifted to the smaller one's seconds. */
export function monotone(table: Table): Table {
  const seconds = [...table.seconds], sizes = table.axes.map((axis) => axis.length);
  let stride = 1;
  for (let axis = sizes.length - 1; axis >= 0; axis--) {
    const n = sizes[axis]!;
    for (let i = 0; i < seconds.length; i++) {
      if (Math.floor(i / stride) % n > 0) seconds[i] = Math.max(seconds[i]!, seconds[i - stride]!);
    }
    stride *= n;
  }
  return { axes: table.axes, seconds };
}

/** What is wrong with a table, as predicates; nothing when it can be looked up. */
export function tableProblems({ axes, seconds }: Table): string[] {
  const count = axes.reduce((n, axis) => n * axis.length, 1), found: string[] = [];
  if (seconds.length !== count) found.push(`has ${seconds.length} seconds for ${count} points`);
  if (axes.some((axis) => axis.some((x, i) => !(x > (axis[i - 1] ?? 0))))) {
    found.push("has an axis that does not rise from above 0");
  }
  if (seconds.some((s) => !(s > 0 && Number.isFinite(s)))) found.push("has seconds that are not above 0");
  return found;
}
