/** Gradients of a mini-batch on one data-parallel replica: micro-batches through its pipeline, one forward, one backward. */
import { oneForwardOneBackward } from "../compiler/pipeline.ts";
import type { Job } from "../ffi/device.ts";
import { cutMicroBatches, pack, type Packed } from "./batch.ts";
import type { BoundCall } from "./bound.ts";
import type { Gates } from "./gates.ts";
import { groupEnds, writeFields, writePacked } from "./infer.ts";
import { type Lanes, settled } from "./lanes.ts";
import type { TrainRequest } from "./train_request.ts";

/** The programs of one stage, once for every micro-batch that it may have in flight. */
interface Slot {
  readonly forward: Lanes | null;
  readonly backward: Lanes;
  /** The backward pass of the last micro-batch, which sums gradients over replicas. */
  readonly closing: Lanes | null;
}

export interface AccumulateOptions {
  /** Compare with the log-probabilities recorded when sampling. */
  readonly compare: boolean;
  /** Where replicas meet to sum their gradients in their last backward passes; null where the update does that. */
  readonly gates: Gates | null;
  readonly onMicroBatch: (done: number, of: number) => void;
}

export class Accumulation {
  readonly #stages: readonly (readonly Slot[])[];

  constructor(readonly bound: BoundCall, readonly dp: number, readonly request: TrainRequest) {
    const { pp } = bound.strategy;
    this.#stages = Array.from(
      { length: pp },
      (_, stage) =>
        Array.from({ length: bound.slots(stage) }, (_, slot) => ({
          forward: stage === pp - 1 ? null : bound.lanes("forward", dp, stage, slot),
          backward: bound.lanes("backward", dp, stage, slot),
          closing: bound.has("closing", 0) ? bound.lanes("closing", dp, stage, slot) : null,
        })),
    );
  }

  /** The last stage has one slot: its sums go on from micro-batch to micro-batch. */
  get #last(): Lanes {
    return this.#stages.at(-1)![0]!.backward;
  }

  reads(port: string): boolean {
    return this.#last.has(port);
  }

  /** A partial sum of the mini-batch. */
  sum(port: string): number {
    return this.#last.bindings[0]!.read(port)[0]!;
  }

  /**
   * Adds the gradients of the samples to zero. Returns the largest difference from the recorded log-probabilities, NaN where
   * nothing is compared.
   */
  async run(
    samples: readonly number[],
    counts: Readonly<Record<string, number>>,
    o: AccumulateOptions,
  ): Promise<number> {
    const { request } = this, { batch } = request, column = batch.tokensOf(request.tokens);
    const { maxima } = this.#last.bindings[0]!.program;
    const runs = cutMicroBatches(column.ids.map((ids) => ids.length), samples, {
      maxTokens: maxima.tokens,
      maxSequences: maxima.sequences,
      together: request.together,
    });
    for (const [slot] of this.#stages) for (const b of slot!.backward.bindings) b.zero("grads");
    for (const b of this.#last.bindings) b.zero("outputs");
    const packs = runs.map((run) => pack(column, run)),
      flow = new Flow(this.#stages, o.gates ? runs.length - 1 : Infinity);
    let worst = NaN, done = 0;
    const last = this.#stages.length - 1;
    /** The last stage's memory holds one micro-batch: its results are read before the next one is written. */
    const finish = async (micro: number) => {
      if (micro < 0) return;
      await flow.ended(last, micro);
      if (o.compare) worst = larger(worst, this.#parity(runs[micro]!, packs[micro]!));
      o.onMicroBatch(++done, runs.length);
    };
    try {
      for (const work of oneForwardOneBackward(this.#stages.length, runs.length)) {
        const { stage, micro } = work, run = runs[micro]!, packed = packs[micro]!;
        if (stage === last) await finish(micro - 1);
        const forward = stage === last || work.pass === "forward";
        const live = forward
          ? this.#write(await flow.enter(stage, micro), run, packed, counts)
          : this.#live(run, packed);
        const submit = () => forward ? flow.forward(stage, micro, live) : flow.backward(stage, micro, live);
        if (o.gates && work.pass === "backward" && micro === runs.length - 1) {
          await o.gates.pass(stage, this.dp, submit);
        } else submit();
      }
      await finish(runs.length - 1);
    } finally {
      await flow.drained();
    }
    await flow.all();
    return worst;
  }

  #live(run: readonly number[], packed: Packed) {
    const { batch } = this.request;
    return { ...packed, groups: Math.ceil(run.length / batch.group), pairs: Math.floor(run.length / 2) };
  }

  #write(to: Lanes, run: readonly number[], packed: Packed, counts: Readonly<Record<string, number>>) {
    const { batch, tokens, states } = this.request, live = this.#live(run, packed);
    writePacked(to, packed, batch.tokensOf(tokens).temperature);
    to.offer("inputs/groupEnds", groupEnds(run.length, Math.min(batch.group, run.length)));
    for (const [port, count] of Object.entries(counts)) to.offer(port, Float32Array.of(count));
    writeFields(to, Object.keys(to.bindings[0]!.program.ports), batch, run, states, live);
    return live;
  }

  /** Sampling and the first training pass say the same where nothing has been trained in between. */
  #parity(run: readonly number[], packed: Packed): number {
    const field = this.request.sampledLogprobs;
    if (field === null) return NaN;
    const now = this.#last.bindings[0]!.read("outputs/logprobs", packed),
      then = this.request.batch.flat(field, run);
    return now.reduce((w, x, j) => Math.max(w, Math.abs(x - then[j]!)), 0);
  }
}

const larger = (a: number, b: number): number => Number.isNaN(a) ? b : Number.isNaN(b) ? a : Math.max(a, b);

/** Jobs of the stages by micro-batch, and the activations and gradients that they pass on. */
class Flow {
  readonly #forward: Job[][][];
  readonly #backward: Job[][][];
  readonly #copies: Job[][][];

  /** @param closes micro-batch whose backward passes are closing ones */
  constructor(readonly stages: readonly (readonly Slot[])[], readonly closes: number) {
    this.#forward = stages.map(() => []);
    this.#backward = stages.map(() => []);
    this.#copies = stages.map(() => []);
  }

  #slot(stage: number, micro: number): Slot {
    const slots = this.stages[stage]!;
    return slots[micro % slots.length]!;
  }

  /** The programs that take a new micro-batch, once the one that had their memory before is through. */
  async enter(stage: number, micro: number): Promise<Lanes> {
    const before = this.#backward[stage]![micro - this.stages[stage]!.length];
    if (before) await settled(before);
    return this.#slot(stage, micro).forward ?? this.#last(stage, micro);
  }

  /** The program that a stage's backward pass of a micro-batch is; the memory is that of all of them. */
  #last(stage: number, micro: number): Lanes {
    const { backward, closing } = this.#slot(stage, micro);
    return micro === this.closes ? closing! : backward;
  }

  /** The forward pass of a stage; on the last one all of the micro-batch. */
  forward(stage: number, micro: number, live: object): void {
    const { forward } = this.#slot(stage, micro), lanes = forward ?? this.#last(stage, micro);
    if (stage > 0) {
      const from = this.#slot(stage - 1, micro).forward!;
      lanes.pull("inputs/x", from, "outputs/y", live, this.#forward[stage - 1]![micro]!);
    }
    if (forward) this.#forward[stage]![micro] = lanes.submit(live, () => []);
    else this.#submitBackward(stage, micro, live);
  }

  /** The backward pass of a stage that is not the last. */
  backward(stage: number, micro: number, live: object): void {
    const from = this.#slot(stage + 1, micro).backward;
    this.#copies[stage]![micro] = this.#last(stage, micro).pull(
      "inputs/dy",
      from,
      "outputs/dx",
      live,
      this.#backward[stage + 1]![micro]!,
    );
    this.#submitBackward(stage, micro, live);
  }

  /** Its gradient for the stage before goes where an earlier micro-batch's was, which must have been fetched. */
  #submitBackward(stage: number, micro: number, live: object): void {
    const earlier = micro - this.stages[stage]!.length;
    const fetched = stage > 0 ? this.#copies[stage - 1]![earlier] : undefined;
    this.#backward[stage]![micro] = this.#last(stage, micro).submit(
      live,
      (lane) => fetched ? [fetched[lane]!] : [],
    );
  }

  ended(stage: number, micro: number): Promise<void> {
    return settled(this.#backward[stage]![micro]!);
  }
  /** Resolves when nothing is queued any more, whatever came of it. */
  async drained(): Promise<void> {
    await Promise.allSettled(this.#jobs().map((job) => job.done));
  }
  /** Resolves when all went well. */
  all(): Promise<void> {
    return settled(this.#jobs());
  }
  #jobs(): Job[] {
    return [...this.#forward, ...this.#backward, ...this.#copies].flat(2).filter((job) => job !== undefined);
  }
}
