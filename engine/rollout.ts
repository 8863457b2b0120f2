/**
 * One run of a generate call over a paged KV cache with continuous batching (DESIGN §4): finished sequences leave, waiting
 * ones enter; the samples of one prompt share its full pages; when pages run out the youngest sequence is preempted and
 * prefilled again later, and counter-based sampling gives it the same tokens.
 */
import { PAGE, SAMPLER } from "../ir/op.ts";
import type { Binding } from "./binding.ts";
import { PagePool } from "./pages.ts";
import type { StreamKey } from "./random.ts";

/** Decode steps submitted at once: hides the round trip to the host; an end of sequence is learnt up to this much later. */
const STEPS_AHEAD = 4;

export interface GenerateSizes {
  readonly slots: number;
  readonly pages: number;
  readonly maxPages: number;
  readonly maxNew: number;
  readonly prefillTokens: number;
}

export interface GenerateRequest {
  readonly prompts: readonly Int32Array[];
  /** Counter of each prompt's randomness: its index in the step's batch. */
  readonly indices: readonly number[];
  readonly samples: number;
  readonly maxNewTokens: number;
  readonly stops: readonly number[];
  /** Philox key of this call in this step. */
  readonly key: StreamKey;
  readonly maxPositions: number;
  /** Called with the response tokens made so far. */
  readonly onTokens?: (tokens: number) => void;
  readonly signal?: AbortSignal;
}

export interface Response {
  readonly prompt: number;
  readonly tokens: Int32Array;
  readonly logprobs: Float32Array;
  /** A stop token was seen; otherwise it was cut by length. */
  readonly finished: boolean;
}

interface Sequence {
  readonly order: number;
  readonly prompt: number;
  readonly sample: number;
  readonly limit: number;
  /** Prompt, then the tokens made before a preemption but the newest, which is sampled again. */
  context: Int32Array;
  slot: number;
  pages: number[];
}

/** Waits for all programs even when one fails: a cancelled rollout must leave none in the queue. */
async function settled(programs: readonly Promise<void>[]): Promise<void> {
  const failed = (await Promise.allSettled(programs)).find((result) => result.status === "rejected");
  if (failed) throw failed.reason;
}

/** What a rollout does with its programs. */
export type Runnable = Pick<Binding, "write" | "offer" | "readInts" | "readFloats" | "run">;

/** One run of a generate call: who is waiting, who runs in which slot with which pages. */
export class Rollout {
  readonly #waiting: Sequence[];
  readonly #running: Sequence[] = [];
  readonly #responses: Response[] = [];
  /** What a preempted sequence had made; its output rows on the device may be reused by another sequence. */
  readonly #saved = new Map<Sequence, { readonly tokens: Int32Array; readonly logprobs: Float32Array }>();
  readonly #pool: PagePool;
  readonly #freeSlots: number[];
  readonly #table: Int32Array;
  readonly #sampler: Int32Array;
  #position: Int32Array;
  #finished: Int32Array;
  #count: Int32Array;
  #tokens = 0;

  constructor(
    readonly prefill: Runnable,
    readonly decode: Runnable,
    readonly copy: Runnable,
    readonly sizes: GenerateSizes,
    readonly request: GenerateRequest,
  ) {
    const { slots, pages, maxPages } = sizes;
    this.#waiting = request.prompts.flatMap((ids, prompt) =>
      Array.from({ length: request.samples }, (_, sample): Sequence => ({
        order: prompt * request.samples + sample,
        prompt,
        sample,
        limit: Math.min(request.maxNewTokens, request.maxPositions - ids.length),
        context: ids,
        slot: -1,
        pages: [],
      }))
    );
    this.#pool = new PagePool(pages);
    this.#freeSlots = Array.from({ length: slots }, (_, i) => slots - 1 - i);
    this.#table = new Int32Array(slots * maxPages);
    this.#sampler = new Int32Array(slots * 8);
    this.#position = new Int32Array(slots);
    this.#finished = new Int32Array(slots);
    this.#count = new Int32Array(slots);
  }

  async run(): Promise<Response[]> {
    // The list on the device has at least one place, and memory begins as zeros: token 0 must not stop what nothing stops.
    const stops = Int32Array.from(this.request.stops.length ? this.request.stops : [-1]);
    this.decode.offer("state/stops", stops);
    this.prefill.offer("state/stops", stops);
    while (this.#waiting.length || this.#running.length) {
      this.request.signal?.throwIfAborted();
      if (!await this.#admit()) await this.#step();
      this.#collect();
    }
    return this.#responses;
  }

  /** Prefills as many waiting sequences as slots, pages and the prefill's token budget hold. */
  async #admit(): Promise<boolean> {
    const units: Sequence[][] = [];
    let tokens = 0;
    while (this.#waiting.length && this.#freeSlots.length) {
      const first = this.#waiting[0]!, length = first.context.length;
      // Leave a page for every running sequence, so that admitting does not preempt at once.
      const pages = this.#pool.available - this.#running.length - Math.floor(length / PAGE);
      if (tokens + length > this.sizes.prefillTokens || pages < 1) break;
      let n = 0;
      while (
        n < Math.min(pages, this.#freeSlots.length, this.#waiting.length) &&
        this.#waiting[n]!.context === first.context
      ) n++;
      const unit = this.#waiting.splice(0, n);
      this.#place(unit);
      units.push(unit);
      tokens += length;
    }
    if (!units.length) return false;
    this.#writeState(this.prefill);
    const rows = units.flatMap((unit) => unit);
    const ids = new Int32Array(tokens),
      positions = new Int32Array(tokens),
      tokenSlots = new Int32Array(tokens);
    const ends: number[] = [], sampled: number[] = [];
    let at = 0;
    for (const unit of units) {
      const { context, slot } = unit[0]!;
      ids.set(context, at);
      for (let i = 0; i < context.length; i++) positions[at + i] = i;
      tokenSlots.fill(slot, at, at + context.length);
      at += context.length;
      ends.push(at);
      for (const _ of unit) sampled.push(at - 1);
    }
    this.prefill.write("inputs/ids", ids);
    this.prefill.write("inputs/positions", positions);
    this.prefill.write("inputs/tokenSlots", tokenSlots);
    this.prefill.write("inputs/ends", Int32Array.from(ends));
    this.prefill.write("inputs/rows", Int32Array.from(sampled));
    this.prefill.write("inputs/slots", Int32Array.from(rows, (s) => s.slot));
    const ran = this.prefill.run({ tokens, sequences: units.length, actions: rows.length });
    await settled([ran, this.#copyPartialPages(units)]);
    return true;
  }

  /** Gives a unit (samples of one context) its slots and pages: full pages are shared, the rest is each one's own. */
  #place(unit: readonly Sequence[]): void {
    const { context } = unit[0]!, shared = Math.floor(context.length / PAGE);
    for (const [i, s] of unit.entries()) {
      s.slot = this.#freeSlots.pop()!;
      s.pages = Array.from(
        { length: shared },
        (_, p) => i ? this.#pool.share(unit[0]!.pages[p]!) : this.#pool.take()!,
      );
      s.pages.push(this.#pool.take()!);
      this.#table.set(s.pages, s.slot * this.sizes.maxPages);
      const made = context.length - this.request.prompts[s.prompt]!.length;
      this.#position[s.slot] = context.length - 1;
      this.#finished[s.slot] = 0;
      this.#count[s.slot] = made;
      const row = s.slot * 8;
      this.#sampler[row + SAMPLER.keyLow] = this.request.key[0];
      this.#sampler[row + SAMPLER.keyHigh] = this.request.key[1];
      this.#sampler[row + SAMPLER.index] = this.request.indices[s.prompt]!;
      this.#sampler[row + SAMPLER.sample] = s.sample;
      this.#sampler[row + SAMPLER.limit] = s.limit;
      this.#running.push(s);
    }
  }

  /** The prefill wrote the last, partly filled page of a context once; every other sample gets its own copy. */
  async #copyPartialPages(units: readonly (readonly Sequence[])[]): Promise<void> {
    const from: number[] = [], to: number[] = [];
    for (const unit of units) {
      const { context, pages } = unit[0]!, last = Math.floor(context.length / PAGE);
      if (context.length % PAGE === 0) continue;
      for (const s of unit.slice(1)) {
        from.push(pages[last]!);
        to.push(s.pages[last]!);
      }
    }
    if (!from.length) return;
    this.copy.write("inputs/from", Int32Array.from(from));
    this.copy.write("inputs/to", Int32Array.from(to));
    await this.copy.run({ sequences: from.length });
  }

  /** Several decode steps of all running sequences; sequences that finish are masked on the device. */
  async #step(): Promise<void> {
    this.#reservePages();
    const running = this.#running,
      remaining = Math.max(...running.map((s) => s.limit - this.#count[s.slot]!));
    this.#writeState(this.decode);
    this.decode.write("inputs/slots", Int32Array.from(running, (s) => s.slot));
    const steps = Math.min(STEPS_AHEAD, remaining);
    await settled(Array.from({ length: steps }, () => this.decode.run({ tokens: running.length })));
  }

  /** Pages for the positions that the next steps write; preempts the youngest sequence when there are none left. */
  #reservePages(): void {
    for (let i = 0; i < this.#running.length; i++) {
      const s = this.#running[i]!, prompt = this.request.prompts[s.prompt]!.length;
      const last = Math.min(this.#position[s.slot]! + STEPS_AHEAD - 1, prompt + s.limit - 1);
      while (s.pages.length <= Math.floor(last / PAGE)) {
        const page = this.#pool.take();
        if (page !== undefined) {
          this.#table[s.slot * this.sizes.maxPages + s.pages.length] = page;
          s.pages.push(page);
        } else if (i < this.#running.length - 1) this.#preempt(this.#running.at(-1)!);
        else {
          // The youngest itself does not fit: it waits until older ones leave. The plan holds one sequence of any length.
          this.#preempt(s);
          break;
        }
      }
    }
  }

  #preempt(s: Sequence): void {
    const made = this.#outTokens(s);
    const context = new Int32Array(this.request.prompts[s.prompt]!.length + made.length - 1);
    context.set(this.request.prompts[s.prompt]!);
    context.set(made.subarray(0, -1), this.request.prompts[s.prompt]!.length);
    s.context = context;
    this.#saved.set(s, { tokens: made, logprobs: this.#outLogprobs(s) });
    this.#leave(s);
    this.#waiting.unshift(s);
  }

  #leave(s: Sequence): void {
    for (const page of s.pages) this.#pool.release(page);
    this.#freeSlots.push(s.slot);
    this.#running.splice(this.#running.indexOf(s), 1);
    s.pages = [];
    s.slot = -1;
  }

  /** Reads back who finished, and takes their tokens. */
  #collect(): void {
    const slots = this.sizes.slots;
    this.#finished = this.decode.readInts("state/finished", slots);
    this.#count = this.decode.readInts("state/count", slots);
    this.#position = this.decode.readInts("state/position", slots);
    for (const s of [...this.#running]) {
      if (!this.#finished[s.slot]) continue;
      const tokens = this.#outTokens(s), logprobs = this.#outLogprobs(s);
      this.#responses[s.order] = {
        prompt: s.prompt,
        tokens,
        logprobs,
        finished: this.#finished[s.slot] === 1,
      };
      this.#tokens += tokens.length;
      this.#leave(s);
    }
    const live = this.#running.reduce((n, s) => n + this.#count[s.slot]!, 0);
    this.request.onTokens?.(this.#tokens + live);
  }

  #outTokens(s: Sequence): Int32Array {
    const out = this.decode.readInts("state/outTokens", this.#count[s.slot]!, s.slot * this.sizes.maxNew);
    const saved = this.#saved.get(s)?.tokens;
    if (saved) out.set(saved.subarray(0, -1));
    return out;
  }

  #outLogprobs(s: Sequence): Float32Array {
    const out = this.decode.readFloats("state/outLogprobs", this.#count[s.slot]!, s.slot * this.sizes.maxNew);
    const saved = this.#saved.get(s)?.logprobs;
    if (saved) out.set(saved.subarray(0, -1));
    return out;
  }

  #writeState(binding: Runnable): void {
    binding.write("state/pageTable", this.#table);
    binding.write("state/sampler", this.#sampler);
    binding.write("state/position", this.#position);
    binding.write("state/finished", this.#finished);
    binding.write("state/count", this.#count);
  }
}
