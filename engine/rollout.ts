/**
 * One run of a generate call over a paged KV cache with continuous batching (DESIGN §4): finished sequences leave, waiting
 * ones enter; the samples of one prompt share its full pages; when pages run out the youngest sequence is preempted and
 * prefilled again later, and counter-based sampling gives it the same tokens.
 */
import { PAGE } from "../ir/op.ts";
import { PagePool } from "./pages.ts";
import { partialPages, writePrefill } from "./prefill.ts";
import type { GenerateRequest, Response, RolloutSizes } from "./request.ts";
import { settleAll } from "./settle.ts";
import { type Runnable, SlotState } from "./slots.ts";

/** Share of the rows that must have finished before the host waits for the device to leave them out: until then they are masked. */
const WORTH = 1 / 8;

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

/** What the device has made for a sequence. */
type Made = Pick<Response, "tokens" | "logprobs" | "kept">;

/** One run of a generate call: who is waiting, who runs in which slot with which pages. */
export class Rollout {
  readonly #waiting: Sequence[];
  readonly #running: Sequence[] = [];
  readonly #responses: Response[] = [];
  /** What a preempted sequence had made; its output rows on the device may be reused by another sequence. */
  readonly #saved = new Map<Sequence, Made>();
  readonly #pool: PagePool;
  readonly #freeSlots: number[];
  readonly #state: SlotState;
  /** Decode steps that may still run. While there are any, the state of live slots and the list of slots stay as they are. */
  #queued: Promise<void>[] = [];
  /** Rows of the steps queued last: the slots of all running sequences, and of some that have finished. */
  #slots: readonly number[] = [];
  #tokens = 0;

  constructor(
    readonly prefill: Runnable,
    readonly decode: Runnable,
    readonly copy: Runnable,
    readonly sizes: RolloutSizes,
    readonly request: GenerateRequest,
  ) {
    const { slots, pages, maxPages } = sizes;
    this.#waiting = request.prompts.flatMap((ids, prompt) =>
      Array.from({ length: request.samples }, (_, sample): Sequence => ({
        order: prompt * request.samples + sample,
        prompt,
        sample,
        limit: Math.min(
          request.limits?.[prompt] ?? request.maxNewTokens,
          request.maxPositions - ids.length,
        ),
        context: ids,
        slot: -1,
        pages: [],
      }))
    );
    this.#pool = new PagePool(pages);
    this.#freeSlots = Array.from({ length: slots }, (_, i) => slots - 1 - i);
    this.#state = new SlotState(slots, maxPages);
  }

  async run(): Promise<Response[]> {
    // The device's list has at least one place, and memory begins as zeros: token 0 must not stop what nothing stops.
    const stops = Int32Array.from(this.request.stops.length ? this.request.stops : [-1]);
    this.decode.offer("state/stops", stops);
    this.prefill.offer("state/stops", stops);
    try {
      while (this.#waiting.length || this.#running.length) {
        this.request.signal?.throwIfAborted();
        this.request.check?.();
        if (!await this.#admit()) {
          if (!this.#running.length) throw this.#tooLarge();
          await this.#round();
        }
        this.#collect();
      }
    } finally {
      await Promise.allSettled(this.#queued);
    }
    return this.#responses;
  }

  /** Nothing runs and the first waiting sequence has no room: no later round would be any different. */
  #tooLarge(): RangeError {
    const { length } = this.#waiting[0]!.context, { pages, prefillTokens } = this.sizes;
    return new RangeError(
      `Cannot generate: a context of ${length} tokens does not fit a prefill of ${prefillTokens} tokens and ${pages} pages ` +
        `of ${PAGE}, shorten the prompt`,
    );
  }

  /** Waits until no step runs, and sees what they did. */
  async #drain(): Promise<void> {
    if (!this.#queued.length) return;
    const queued = this.#queued;
    this.#queued = [];
    await settleAll(queued);
    this.#collect();
  }

  /** Whether the first waiting sequence has a slot, pages and room in a prefill of `tokens` tokens so far. */
  #fits(tokens: number): boolean {
    const first = this.#waiting[0];
    return first !== undefined && this.#freeSlots.length > 0 && this.#room(first) > 0 &&
      tokens + first.context.length <= this.sizes.prefillTokens;
  }

  /** Pages beside a context's full ones; every running sequence is left one, so that admitting does not preempt at once. */
  #room({ context }: Sequence): number {
    return this.#pool.available - this.#running.length - Math.floor(context.length / PAGE);
  }

  /** Prefills as many waiting sequences as slots, pages and the prefill's token budget hold. */
  async #admit(): Promise<boolean> {
    if (!this.#fits(0)) return false;
    await this.#drain();
    const units: Sequence[][] = [];
    let tokens = 0;
    while (this.#fits(tokens)) {
      const first = this.#waiting[0]!, length = first.context.length, pages = this.#room(first);
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
    this.#state.write(this.prefill);
    const ran = this.prefill.run(writePrefill(this.prefill, units));
    await settleAll([ran, this.#copyPartialPages(units)]);
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
      this.#state.setPages(s.slot, s.pages);
      this.#state.start(s.slot, {
        key: this.request.key,
        index: this.request.indices[s.prompt]!,
        sample: s.sample,
        limit: s.limit,
        length: context.length,
        made: context.length - this.request.prompts[s.prompt]!.length,
      });
      this.#running.push(s);
    }
  }

  async #copyPartialPages(units: readonly (readonly Sequence[])[]): Promise<void> {
    const { from, to } = partialPages(units);
    if (!from.length) return;
    this.copy.write("inputs/from", Int32Array.from(from));
    this.copy.write("inputs/to", Int32Array.from(to));
    await this.copy.run({ sequences: from.length });
  }

  /** Queues a round of decode steps of all running sequences and waits for all but its last step. */
  async #round(): Promise<void> {
    const { round } = this.sizes, shorter = this.#running.length <= (1 - WORTH) * this.#slots.length;
    if (shorter || this.#missingPages(round) > this.#pool.available) await this.#drain();
    const steps = Math.min(round, this.#mostLeft() - this.#queued.length);
    this.#reservePages(steps);
    if (this.#queued.length) this.#state.writePages(this.decode);
    else {
      this.#slots = this.#running.map((s) => s.slot);
      this.#state.write(this.decode);
      this.decode.write("inputs/slots", Int32Array.from(this.#slots));
    }
    const queued = Array.from({ length: steps }, () => this.decode.run({ tokens: this.#slots.length }));
    const awaited = [...this.#queued, ...queued.slice(0, -1)];
    this.#queued = queued.slice(-1);
    for (const step of this.#queued) step.catch(() => {});
    await settleAll(awaited);
  }

  /** Steps until every running sequence has reached its limit. */
  #mostLeft(): number {
    return this.#running.reduce((most, s) => Math.max(most, s.limit - this.#state.count(s.slot)), 0);
  }

  /** Pages that a sequence holds once `steps` more steps ran behind those in the queue. */
  #pagesAfter(s: Sequence, steps: number): number {
    const prompt = this.request.prompts[s.prompt]!.length;
    const last = Math.min(
      this.#state.position(s.slot) + this.#queued.length + steps - 1,
      prompt + s.limit - 1,
    );
    return Math.floor(last / PAGE) + 1;
  }

  #missingPages(steps: number): number {
    return this.#running.reduce((n, s) => n + Math.max(0, this.#pagesAfter(s, steps) - s.pages.length), 0);
  }

  /** Pages for the positions that the next steps write; preempts the youngest sequence when there are none left. */
  #reservePages(steps: number): void {
    for (let i = 0; i < this.#running.length; i++) {
      const s = this.#running[i]!, pages = this.#pagesAfter(s, steps);
      while (s.pages.length < pages) {
        const page = this.#pool.take();
        if (page !== undefined) {
          s.pages.push(page);
        } else if (i < this.#running.length - 1) this.#preempt(this.#running.at(-1)!);
        else {
          // The youngest itself does not fit: it waits until older ones leave. The plan holds one sequence of any length.
          this.#preempt(s);
          return;
        }
      }
      this.#state.setPages(s.slot, s.pages);
    }
  }

  #preempt(s: Sequence): void {
    const made = this.#made(s), { tokens } = made;
    const context = new Int32Array(this.request.prompts[s.prompt]!.length + tokens.length - 1);
    context.set(this.request.prompts[s.prompt]!);
    context.set(tokens.subarray(0, -1), this.request.prompts[s.prompt]!.length);
    s.context = context;
    this.#saved.set(s, made);
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

  /** Reads back who finished, and takes their tokens. A finished slot stays as it is, so a step may run meanwhile. */
  #collect(): void {
    this.#state.read(this.decode);
    for (const s of [...this.#running]) {
      if (!this.#state.finished(s.slot)) continue;
      const made = this.#made(s), finished = this.#state.finished(s.slot) === 1;
      this.#responses[s.order] = { prompt: s.prompt, ...made, finished };
      this.#tokens += made.tokens.length;
      this.#leave(s);
    }
    const live = this.#running.reduce((n, s) => n + this.#state.count(s.slot), 0);
    this.request.onTokens?.(this.#tokens + live);
  }

  /** Reads what a slot has made; what its sequence had made before it was preempted comes before. */
  #made(s: Sequence): Made {
    const { maxNew } = this.sizes, { kept: width = 0 } = this.request, count = this.#state.count(s.slot);
    const saved = this.#saved.get(s), first = s.slot * maxNew;
    const tokens = this.decode.readInts("state/outTokens", count, first);
    const logprobs = this.decode.readFloats("state/outLogprobs", count, first);
    const kept = width > 0 && this.decode.readInts("state/outKept", count * width, first * width);
    if (saved) {
      tokens.set(saved.tokens.subarray(0, -1));
      logprobs.set(saved.logprobs.subarray(0, -1));
      if (kept) kept.set(saved.kept!.subarray(0, -width));
    }
    return { tokens, logprobs, ...(kept && { kept }) };
  }
}
