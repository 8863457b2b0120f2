/** Elements that an operation reads and writes: what memory-bound operations take time for. */
import { extent, type Maxima, PANEL } from "../ir/op.ts";
import type { Work } from "../ir/program.ts";

/** Of its operands all, but where it goes through a table here and there, or keeps to a part of them. */
export function elementsOf({ kind, attrs, elements }: Work, live: Maxima): number {
  const at = (i: number) => extent(attrs[i]!, live);
  switch (kind) {
    case "embedding":
    case "embeddingGrad":
      return 2 * at(0) * at(2);
    case "gatherRows":
    case "scatterRows":
      return 2 * at(0) * at(1);
    case "kvWrite":
      return 4 * at(0) * at(1) * at(2);
    case "copyPages":
      // Keys and values of PAGE tokens, read and written.
      return 64 * at(0) * at(1) * at(2) * at(3);
    case "sample":
    case "sampleKept":
      return at(0) * at(1);
    // Rows of a weight in panels: every element that is used brings fifteen others along.
    case "keptLogits":
    case "keptLogitsDx":
      return PANEL * at(0) * at(1) * at(3);
    case "keptLogitsDw":
      return 2 * PANEL * at(0) * at(1) * at(3);
    case "rope":
      return 2 * at(0) * at(1) * at(2);
    case "ownRows": {
      const own = elements.at(-1)!;
      return 2 * own.times * live[own.symbol];
    }
    default:
      return elements.reduce((n, d) => n + d.times * live[d.symbol], 0);
  }
}
