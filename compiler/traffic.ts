/** What an operation reads and writes: what memory-bound operations take time for. */
import { extent, type Maxima, PANEL } from "../ir/op.ts";
import type { Work } from "../ir/program.ts";

/** Elements of every operand: all, but where it goes through a table here and there, or keeps to a part of them. */
function touched({ kind, attrs, elements }: Work, live: Maxima): number[] {
  const at = (i: number) => extent(attrs[i]!, live), last = elements.length - 1;
  const these = (by: Readonly<Record<number, number>>) => elements.map((_, i) => by[i] ?? 0);
  const all = (but: Readonly<Record<number, number>>) =>
    elements.map((d, i) => but[i] ?? d.times * live[d.symbol]);
  switch (kind) {
    case "embedding":
    case "embeddingGrad":
      return these({ 1: at(0) * at(2), [last]: at(0) * at(2) });
    case "gatherRows":
    case "scatterRows":
      return these({ 0: at(0) * at(1), [last]: at(0) * at(1) });
    case "kvWrite": {
      const n = at(0) * at(1) * at(2);
      return these({ 0: n, 1: n, [last]: 2 * n });
    }
    case "copyPages": {
      // Keys and values of PAGE tokens.
      const n = 32 * at(0) * at(1) * at(2) * at(3);
      return these({ 0: n, [last]: n });
    }
    case "sample":
    case "sampleKept":
      return these({ 0: at(0) * at(1) });
    // Rows of a weight in panels: every element that is used brings fifteen others along.
    case "keptLogits":
    case "keptLogitsDx":
      return these({ 1: PANEL * at(0) * at(1) * at(3) });
    case "keptLogitsDw":
      return these({ [last]: 2 * PANEL * at(0) * at(1) * at(3) });
    case "rope":
      return these({ 0: at(0) * at(1) * at(2), [last]: at(0) * at(1) * at(2) });
    case "ropes":
      return all({ 2: 0, 3: 0 });
    case "ropeKvWrite":
      return all({ 3: 0, 4: 0, 5: 0, 6: 0, 7: 0, [last]: 2 * at(0) * at(2) * at(3) });
    case "ownRows": {
      const own = elements[last]!.times * live[elements[last]!.symbol];
      return these({ 0: own, [last]: own });
    }
    default:
      return all({});
  }
}

const sum = (all: readonly number[]): number => all.reduce((n, x) => n + x, 0);

/** Elements that an operation reads and writes. */
export const elementsOf = (work: Work, live: Maxima): number => sum(touched(work, live));

/** Bytes that it reads and writes. */
export const bytesTouched = (work: Work, live: Maxima): number =>
  sum(touched(work, live).map((n, i) => n * work.widths[i]!));
