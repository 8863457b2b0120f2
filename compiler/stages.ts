/** Where pipeline stages are cut: between layers, so that the costliest stage is as cheap as can be. */
import type { Head } from "../ir/graph.ts";
import type { ModelConfig } from "./models/config.ts";

/** A half-open range. */
export interface Range {
  readonly from: number;
  readonly to: number;
}

interface Cuts {
  readonly most: number;
  readonly squares: number;
  readonly stages: readonly Range[];
}

/**
 * Layers of each stage. A stage costs the multiplications of its products per token; the head is the last stage's, and the
 * embedding costs nothing. Among equally good cuts the most even one is taken.
 */
export function stagesOf(config: ModelConfig, head: Head, stages: number): readonly Range[] {
  const { layers } = config, layer = layerProducts(config), behind = headProducts(config, head);
  const known = new Map<string, Cuts>();
  const best = (from: number, left: number): Cuts => {
    const key = `${from} ${left}`, found = known.get(key);
    if (found) return found;
    const last = left === 1, candidates: Cuts[] = [];
    for (let to = last ? layers : from + 1; to <= layers - (left - 1); to++) {
      const cost = (to - from) * layer + (last ? behind : 0);
      const rest = last ? { most: 0, squares: 0, stages: [] } : best(to, left - 1);
      candidates.push({
        most: Math.max(cost, rest.most),
        squares: cost * cost + rest.squares,
        stages: [{ from, to }, ...rest.stages],
      });
    }
    const chosen = candidates.reduce((a, b) => (b.most - a.most || b.squares - a.squares) < 0 ? b : a);
    known.set(key, chosen);
    return chosen;
  };
  return best(0, stages).stages;
}

function layerProducts(c: ModelConfig): number {
  const attention = (2 * c.heads + 2 * c.kvHeads) * c.headDim;
  return c.hidden * (attention + 3 * c.intermediate);
}
const headProducts = (c: ModelConfig, head: Head): number => c.hidden * (head === "lm" ? c.vocab : 1);
