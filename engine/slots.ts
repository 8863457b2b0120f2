/** The host's copy of what the device keeps for every slot of a generate call (docs/architecture.md, "Generation"). */
import { SAMPLER } from "../ir/op.ts";
import type { Binding } from "./binding.ts";
import type { StreamKey } from "./random.ts";

/** What a rollout does with its programs. */
export type Runnable = Pick<Binding, "write" | "offer" | "readInts" | "readFloats" | "run">;

const SAMPLER_COLUMNS = 8;

/** What a slot starts with: its context is prefilled, and `made` response tokens are there already. */
export interface SlotStart {
  readonly key: StreamKey;
  readonly index: number;
  readonly sample: number;
  readonly limit: number;
  /** Tokens of the context. */
  readonly length: number;
  readonly made: number;
}

export class SlotState {
  readonly #table: Int32Array;
  readonly #sampler: Int32Array;
  #position: Int32Array;
  #finished: Int32Array;
  #count: Int32Array;

  constructor(readonly slots: number, readonly maxPages: number) {
    this.#table = new Int32Array(slots * maxPages);
    this.#sampler = new Int32Array(slots * SAMPLER_COLUMNS);
    this.#position = new Int32Array(slots);
    this.#finished = new Int32Array(slots);
    this.#count = new Int32Array(slots);
  }

  start(slot: number, s: SlotStart): void {
    this.#position[slot] = s.length - 1;
    this.#finished[slot] = 0;
    this.#count[slot] = s.made;
    const row = slot * SAMPLER_COLUMNS;
    this.#sampler[row + SAMPLER.keyLow] = s.key[0];
    this.#sampler[row + SAMPLER.keyHigh] = s.key[1];
    this.#sampler[row + SAMPLER.index] = s.index;
    this.#sampler[row + SAMPLER.sample] = s.sample;
    this.#sampler[row + SAMPLER.limit] = s.limit;
  }

  setPages(slot: number, pages: readonly number[]): void {
    this.#table.set(pages, slot * this.maxPages);
  }

  position(slot: number): number {
    return this.#position[slot]!;
  }
  /** Response tokens made. */
  count(slot: number): number {
    return this.#count[slot]!;
  }
  /** 0 running, 1 stop token, 2 length. */
  finished(slot: number): number {
    return this.#finished[slot]!;
  }

  /** Writes everything: no program may run meanwhile. */
  write(to: Runnable): void {
    this.writePages(to);
    to.write("state/sampler", this.#sampler);
    to.write("state/position", this.#position);
    to.write("state/finished", this.#finished);
    to.write("state/count", this.#count);
  }

  /** A program that runs meanwhile finds the entries that it reads as they were. */
  writePages(to: Runnable): void {
    to.write("state/pageTable", this.#table);
  }

  /** Reads what steps change. While one runs, other slots than finished ones may be a step older or newer. */
  read(from: Runnable): void {
    // `finished` first: a slot that is seen as finished has its last count and position.
    this.#finished = from.readInts("state/finished", this.slots);
    this.#count = from.readInts("state/count", this.slots);
    this.#position = from.readInts("state/position", this.slots);
  }
}
