/** How a batch is shared out: among data-parallel ranks, and among the rollouts that keep a pipeline full. */

/**
 * Shares blocks of neighbours out to `parts` so that the weights are nearly equal: heaviest first, each to the lightest part so
 * far (Graham 1969: at most 4/3 of the best). Inside a part the blocks keep their order, so one part is the order itself.
 *
 * @param order samples; every `together` neighbours are one block
 * @param weight of a sample, such as its tokens
 * @example
 * ```ts
 * import { share } from "./partition.ts";
 *
 * const [a, b] = share([0, 1, 2], { parts: 2, together: 1, weight: (i) => [5, 3, 2][i]! });
 * console.log(a, b); // [0] [1, 2]
 * ```
 */
export function share(
  order: readonly number[],
  o: { readonly parts: number; readonly together: number; readonly weight: (sample: number) => number },
): number[][] {
  const blocks = Array.from({ length: Math.ceil(order.length / o.together) }, (_, i) => {
    const samples = order.slice(i * o.together, (i + 1) * o.together);
    return { at: i, samples, weight: samples.reduce((n, s) => n + o.weight(s), 0) };
  });
  const parts = Array.from({ length: o.parts }, () => ({ weight: 0, blocks: [] as typeof blocks }));
  for (const block of blocks.toSorted((a, b) => b.weight - a.weight || a.at - b.at)) {
    const lightest = parts.reduce((best, part) => part.weight < best.weight ? part : best);
    lightest.blocks.push(block);
    lightest.weight += block.weight;
  }
  return parts.map((part) => part.blocks.toSorted((a, b) => a.at - b.at).flatMap((b) => b.samples));
}
