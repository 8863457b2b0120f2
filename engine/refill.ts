/**
 * The rounds of a refill call: groups that do not pass are made again from other prompts of the data set, until all pass or
 * the rounds are over. What a round does follows from numbers that every plan computes the same, so it is the same under
 * every plan.
 */
import type { CallGraph, RefillCall } from "../ir/graph.ts";
import { type Batch, batchOf } from "./batch.ts";
import type { Sample } from "./sample.ts";
import { permutation, streamKey } from "./random.ts";

/** Which prompts of the data set come to a round's open places: drawn anew every round, without moving the data's cursor. */
export function spareRows(
  rows: readonly Sample[],
  count: number,
  at: { readonly seed: number; readonly step: number; readonly round: number },
): readonly Sample[] {
  const order = permutation(rows.length, streamKey(at.seed, "refill", at.step, at.round));
  return Array.from({ length: count }, (_, i) => rows[order[i % order.length]!]!);
}

/** One step's rounds. */
export class Rounds {
  #round = 1;
  #part: Batch;
  /** Places of the part's groups in the step's batch. */
  #places: readonly number[];
  readonly #repeated: ReadonlySet<string>;

  /** @param spare rows for a round */
  constructor(
    readonly graph: CallGraph,
    readonly call: RefillCall,
    readonly batch: Batch,
    readonly spare: (count: number, round: number) => readonly Sample[],
  ) {
    this.#part = batch;
    this.#places = batch.rows.map((_, i) => i);
    this.#repeated = new Set(graph.calls.slice(0, graph.calls.indexOf(call)).map((c) => c.id));
  }

  /** What a call works on now: a repeated one on the round's groups. Null where there is nothing left to do. */
  of(
    call: string,
  ): { readonly batch: Batch; readonly places: readonly number[]; readonly round: number } | null {
    if (!this.#repeated.has(call)) {
      return { batch: this.batch, places: this.batch.rows.map((_, i) => i), round: 1 };
    }
    return this.#places.length ? { batch: this.#part, places: this.#places, round: this.#round } : null;
  }

  /** Ends a round: what it made goes to its places, and those that do not pass are the next round's. */
  end(): void {
    if (!this.#places.length) return;
    if (this.#part !== this.batch) this.batch.replace(this.#places, this.#part);
    const values = this.batch.numbersOf(this.call.reads.until!).values as Float32Array,
      { group } = this.batch;
    this.#places = this.#places.filter((place) =>
      values.subarray(place * group, (place + 1) * group).some((x) => x === 0)
    );
    if (!this.#places.length || this.#round === this.call.maxRounds) return;
    this.#round++;
    const rows = this.spare(this.#places.length, this.#round);
    this.#part = batchOf(rows, group, this.graph.source.fields);
  }

  /** Rounds that were made, and the share of groups that never passed. */
  get metrics(): { readonly rounds: number; readonly failed: number } {
    return { rounds: this.#round, failed: this.#places.length / this.batch.rows.length };
  }
}
