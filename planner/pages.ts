/** How many KV pages every generate call gets: all that its slots can use, or what the memory left over holds. */

/** The KV cache of one generate call. */
export interface Cache {
  readonly slots: number;
  /** Pages of the longest sequence. */
  readonly maxPages: number;
  readonly bytesPerPage: number;
}

/**
 * Pages of each cache. When not all fit, every cache gets the same share of what it could use, and never fewer pages than one
 * sequence of maximum length needs: then sequences wait for pages, the youngest is preempted, and tokens stay the same.
 *
 * @param bytes left for all caches; the result may need more when not even one sequence of each fits
 */
export function choosePages(caches: readonly Cache[], bytes: number): number[] {
  const least = caches.reduce((n, c) => n + c.maxPages * c.bytesPerPage, 0),
    most = caches.reduce((n, c) => n + c.slots * c.maxPages * c.bytesPerPage, 0);
  const share = most > least ? Math.min(1, Math.max(0, (bytes - least) / (most - least))) : 0;
  return caches.map((c) => c.maxPages + Math.floor(share * (c.slots - 1) * c.maxPages));
}
