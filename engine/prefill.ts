/** What a prefill reads: the contexts of sequences that enter, each written to the KV cache once for all samples of a prompt. */
import { PAGE } from "../ir/op.ts";
import type { Runnable } from "./slots.ts";

/** A sequence that has its slot and its pages. */
export interface Placed {
  readonly context: Int32Array;
  readonly slot: number;
  readonly pages: readonly number[];
}

/** Live dims of a prefill. */
export interface PrefillSizes {
  readonly tokens: number;
  readonly sequences: number;
  readonly actions: number;
}

/** Writes the inputs of a prefill. A unit is the samples of one context: its first slot's pages get the context, every one is sampled from. */
export function writePrefill(to: Runnable, units: readonly (readonly Placed[])[]): PrefillSizes {
  const contexts = units.map((unit) => unit[0]!), tokens = contexts.reduce((n, c) => n + c.context.length, 0);
  const ids = new Int32Array(tokens), positions = new Int32Array(tokens), tokenSlots = new Int32Array(tokens);
  let at = 0;
  const ends = contexts.map(({ context, slot }) => {
    ids.set(context, at);
    for (let i = 0; i < context.length; i++) positions[at + i] = i;
    tokenSlots.fill(slot, at, at + context.length);
    return at += context.length;
  });
  const rows = units.flatMap((unit, i) => unit.map(() => ends[i]! - 1)),
    slots = units.flat().map((s) => s.slot);
  to.write("inputs/ids", ids);
  to.write("inputs/positions", positions);
  to.write("inputs/tokenSlots", tokenSlots);
  to.write("inputs/ends", Int32Array.from(ends));
  to.write("inputs/rows", Int32Array.from(rows));
  to.write("inputs/slots", Int32Array.from(slots));
  return { tokens, sequences: units.length, actions: rows.length };
}

/** Copies of the last, partly filled page of each context: the prefill wrote it once, every further sample gets its own. */
export function partialPages(
  units: readonly (readonly Placed[])[],
): { readonly from: number[]; readonly to: number[] } {
  const from: number[] = [], to: number[] = [];
  for (const unit of units) {
    const { context, pages } = unit[0]!, last = Math.floor(context.length / PAGE);
    if (context.length % PAGE === 0) continue;
    for (const s of unit.slice(1)) {
      from.push(pages[last]!);
      to.push(s.pages[last]!);
    }
  }
  return { from, to };
}
