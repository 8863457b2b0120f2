/** The pairs of low-rank adaptation (Hu et al. 2021): names, shapes, and how they are cut. */
import type { Adaptable, Lora } from "../../ir/graph.ts";
import { type ModelParameter, storedElements } from "./cut.ts";
import type { Layout } from "./storage.ts";

/** Names of the pair of a linear layer, "model.layers.0.mlp.up_proj". */
export const pairOf = (linear: string) => ({ a: `${linear}.lora_A.weight`, b: `${linear}.lora_B.weight` });

const SUFFIX = ".weight";

/**
 * A pair for every target. Where the outputs of W are shared out over ranks, so are those of B, and every rank has A; where its inputs are,
 * so are those of A, and every rank has B. Either way x·Aᵀ·Bᵀ is what a rank adds to its own x·Wᵀ, before any sum over ranks, and the
 * gradient of the whole matrix is a sum over them.
 */
export function loraParameters(
  base: readonly ModelParameter[],
  { rank, targets }: Lora,
  layout: Layout,
): ModelParameter[] {
  return base.flatMap((w): ModelParameter[] => {
    const linear = w.name.slice(0, -SUFFIX.length), [outputs, inputs] = w.shape as [number, number];
    if (!w.name.endsWith(SUFFIX) || !targets.includes(linear.split(".").at(-1) as Adaptable)) return [];
    const { a, b } = pairOf(linear);
    const matrix = (name: string, n: number, k: number, dim: 0 | 1, init: ModelParameter["init"]) => ({
      name,
      shape: [n, k],
      layout,
      matrix: true,
      layer: w.layer,
      init,
      cut: w.cut?.dim === dim ? w.cut : null,
      dtype: w.dtype,
      gradient: w.gradient,
      offset: 0,
      elements: storedElements({ shape: [n, k], layout }),
    });
    // B begins at zero, so that a new adapter changes nothing.
    return [matrix(a, rank, inputs, 1, "fanIn"), matrix(b, outputs, rank, 0, "zeros")];
  });
}
