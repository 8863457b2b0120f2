/** How many KV pages every generate call gets where memory does not hold all that its slots can use. */

/** The KV cache of one generate call. */
export interface Cache {
  readonly slots: number;
  /** Pages of the longest sequence. */
  readonly maxPages: number;
}

/**
 * Pages of each cache: the same share of what each could use, and never fewer than one sequence of maximum length needs: then
 * sequences wait for pages, the youngest is preempted, and tokens stay the same.
 *
 * @param share from 0, one sequence, to 1, all slots
 */
export const choosePages = (caches: readonly Cache[], share: number): number[] =>
  caches.map((c) => c.maxPages + Math.floor(share * (c.slots - 1) * c.maxPages));
