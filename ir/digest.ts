/** A short name for what a call graph does, to tell whether a plan, a checkpoint or a worker belongs to it. */
import type { CallGraph } from "./graph.ts";

/**
 * 16 hexadecimal digits that change with anything a graph does, and not with the lines of the script it came from (`site`).
 * FNV-1a, 64 bits, over the graph's JSON with sorted keys: not for secrets, only against mistakes.
 */
export function digest(graph: CallGraph): string {
  return fnv1a(canonical({ ...graph, calls: graph.calls.map(({ site: _, ...call }) => call) }));
}

/** JSON with sorted keys, so that equal values have equal text. */
export function canonical(value: unknown): string {
  return JSON.stringify(value, (_, v) => {
    if (v === null || typeof v !== "object" || Array.isArray(v)) return v;
    return Object.fromEntries(Object.entries(v).sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0));
  });
}

/** FNV-1a over UTF-8 (Fowler, Noll and Vo). The 64-bit product is kept in two halves: the prime is 2⁴⁰ + 0x1b3. */
export function fnv1a(text: string): string {
  let high = 0xcbf29ce4, low = 0x84222325;
  for (const byte of new TextEncoder().encode(text)) {
    low = (low ^ byte) >>> 0;
    const product = low * 0x1b3;
    high = (Math.imul(high, 0x1b3) + Math.floor(product / 2 ** 32) + (low << 8)) >>> 0;
    low = product >>> 0;
  }
  return high.toString(16).padStart(8, "0") + low.toString(16).padStart(8, "0");
}
