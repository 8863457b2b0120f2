/** Where pipeline stages are cut: between layers, so that the costliest stage is as cheap as can be. */
import type { Head } from "../ir/graph.ts";
import type { ModelConfig } from "./models/config.ts";

/** A half-open range. */
export interface Range {
  readonly from: number;
  readonly to: number;
}

/**
 * Layers of each stage. A stage costs the multiplications of its products per token; the head is the last stage's, and the
 * embedding costs nothing. Among equally good cuts the most even one is taken.
 */
export function stagesOf(config: ModelConfig, head: Head, stages: number): readonly Range[] {
  const { layers } = config, layer = layerProducts(config), behind = headProducts(config, head);
  // By stages that are left, then by first layer: the costliest stage, the sum of squares, and where the first stage ends.
  let most: number[] = [], squares: number[] = [];
  const ends: number[][] = [];
  for (let left = 1; left <= stages; left++) {
    const nowMost: number[] = [], nowSquares: number[] = [], end: number[] = [];
    for (let from = 0; from <= layers - left; from++) {
      for (let to = left === 1 ? layers : from + 1; to <= layers - (left - 1); to++) {
        const cost = (to - from) * layer + (left === 1 ? behind : 0);
        const m = left === 1 ? cost : Math.max(cost, most[to]!),
          q = cost * cost + (left === 1 ? 0 : squares[to]!);
        if (end[from] !== undefined && (m - nowMost[from]! || q - nowSquares[from]!) >= 0) continue;
        [nowMost[from], nowSquares[from], end[from]] = [m, q, to];
      }
    }
    [most, squares] = [nowMost, nowSquares];
    ends.push(end);
  }
  let from = 0;
  return Array.from({ length: stages }, (_, i): Range => {
    const range = { from, to: ends[stages - 1 - i]![from]! };
    from = range.to;
    return range;
  });
}

function layerProducts(c: ModelConfig): number {
  const attention = (2 * c.heads + 2 * c.kvHeads) * c.headDim;
  return c.hidden * (attention + 3 * c.intermediate);
}
const headProducts = (c: ModelConfig, head: Head): number => c.hidden * (head === "lm" ? c.vocab : 1);
