/** A model on many ranks, its programs run by hand and one after the other: what the engine does, without its schedules. */
import assert from "node:assert/strict";
import type { Binding, Live } from "../../engine/binding.ts";
import { Devices } from "../../engine/devices.ts";
import {
  compileFold,
  compileInfer,
  compileTrain,
  compileUpdate,
  type InferOutput,
} from "../../compiler/compile.ts";
import { kvReplicas, type LocalParameter, shardsOf } from "../../compiler/layout.ts";
import type { ModelConfig } from "../../compiler/models/config.ts";
import { parameters } from "../../compiler/models/transformer.ts";
import type { AdamW, Head } from "../../ir/graph.ts";
import type { Expr } from "../../ir/expr.ts";
import type { Schema } from "../../ir/field.ts";
import { rankOf } from "../../ir/mesh.ts";
import { type Maxima, ownRows, type Segment } from "../../ir/op.ts";
import type { Assignment, ParallelStrategy } from "../../ir/plan.ts";
import type { Program } from "../../ir/program.ts";
import type { DeviceSegment } from "../../ffi/device.ts";
import { fold, ModelRunner, type packed, sameBits, writeBatch } from "../golden/model_runner.ts";

/** Sequences as one data-parallel rank gets them, with what else its programs read. */
export interface MicroBatch extends ReturnType<typeof packed> {
  readonly fields?: Readonly<Record<string, Float32Array>>;
  readonly pairs?: number;
}
export interface Layout {
  readonly strategy: ParallelStrategy;
  readonly zero?: 0 | 1;
  readonly recompute?: Assignment["recompute"];
  /** Bytes of fence around every arena buffer. */
  readonly guard?: number;
  /** Kept tokens of an action. */
  readonly kept?: number;
}
export interface Training {
  readonly loss: Expr;
  readonly fields: Schema;
  readonly maxima: Maxima;
  readonly optimizer: AdamW;
}
/** Whole tensors under Hugging Face's names. */
export type Tensors = ReadonlyMap<string, Float32Array>;

const MOST = 8;
/** One thread each; opened once. */
const devices = Devices.open({ count: MOST, threads: 1, deadlineSeconds: 20 });

export class Ranks implements Disposable {
  /** By stage, rank of the data-parallel group and tensor shard. */
  readonly #runners: readonly (readonly (readonly ModelRunner[])[])[];

  constructor(readonly config: ModelConfig, readonly head: Head, readonly layout: Layout) {
    const { strategy, zero = 0 } = layout, { dp } = strategy;
    const ranks = {
      devices: Array.from({ length: MOST }, (_, i) => i),
      strategy,
      kvReplicas: kvReplicas(config, strategy.tp),
    };
    this.#runners = shardsOf(config, head, strategy).map((stage) =>
      Array.from({ length: dp }, (_, d) =>
        stage.map((shard) => {
          const rank = rankOf(strategy, { stage: shard.stage, dp: d, tp: shard.rank });
          const groups = () => devices.memberships(ranks, rank);
          return new ModelRunner(devices.all[rank]!, shard, { share: { dp, rank: d, zero }, groups });
        }))
    );
  }

  /** Ranks that work on the same sequences, by stage and tensor shard. */
  pipeline(dp: number): readonly (readonly ModelRunner[])[] {
    return this.#runners.map((stage) => stage[dp]!);
  }
  get all(): readonly ModelRunner[] {
    return this.#runners.flat(2);
  }

  load(tensors: Tensors): void {
    for (const runner of this.all) for (const p of runner.parameters) runner.write(p, tensors.get(p.name)!);
  }

  /** The parameters; every rank that has a piece has the same one. */
  parameters(): Tensors {
    return this.#assemble("params", (before, piece, name) => {
      if (before.some((x) => !Number.isNaN(x))) {
        assert.ok(sameBits(before, piece), `copies of ${name} differ`);
      }
      return piece;
    });
  }

  /** Gradients before the update: the sum over the ranks that have a part of it. */
  gradients(): Tensors {
    return this.#assemble("grads", (before, piece, _, p) => {
      const duplicate = p.sync === null && !p.counts;
      return piece.map((x, i) => duplicate ? before[i]! : (Number.isNaN(before[i]!) ? 0 : before[i]!) + x);
    });
  }

  #assemble(
    segment: "params" | "grads",
    merge: (before: Float32Array, piece: Float32Array, name: string, p: LocalParameter) => Float32Array,
  ): Tensors {
    const size = (shape: readonly number[]) => shape.reduce((n, d) => n * d, 1);
    const tensors = new Map(
      parameters(this.config, this.head).map((p) => [p.name, new Float32Array(size(p.shape)).fill(NaN)]),
    );
    for (const runner of this.all) {
      for (const p of runner.parameters) {
        const whole = tensors.get(p.name)!, [rows = 1, width = 1] = p.global, at: number[] = [];
        const { dim, from, to } = p.slice ?? { dim: 0, from: 0, to: rows };
        const inside = (r: number, c: number) => dim === 0 ? r >= from && r < to : c >= from && c < to;
        for (let i = 0; i < whole.length; i++) if (inside(Math.floor(i / width), i % width)) at.push(i);
        const merged = merge(Float32Array.from(at, (i) => whole[i]!), runner.read(p, segment), p.name, p);
        merged.forEach((x, i) => whole[at[i]!] = x);
      }
    }
    return tensors;
  }

  /** Outputs by data-parallel rank; every tensor shard has the same ones. */
  async infer(
    outputs: readonly InferOutput[],
    maxima: Maxima,
    batches: readonly MicroBatch[],
  ): Promise<Record<string, Float32Array>[]> {
    return await Promise.all(batches.map(async (batch, d) => {
      let x: readonly Float32Array[] = [], bound: readonly Bound[] = [];
      for (const stage of this.pipeline(d)) {
        bound = stage.map((r) =>
          bind(r, compileInfer(r.shard, { maxima, outputs, ...this.fence }), {}, this.guarded)
        );
        await run(bound, batch, { x });
        x = stage[0]!.shard.last ? [] : read(bound, batch, "outputs/y");
      }
      return Object.fromEntries(outputs.map((name) => [name, alike(read(bound, batch, `outputs/${name}`))]));
    }));
  }

  /** Options of every compile. */
  get fence(): { readonly guard?: number; readonly kept?: number } {
    const { guard, kept } = this.layout;
    return { ...(guard !== undefined && { guard }), ...(kept !== undefined && { kept }) };
  }

  get guarded(): boolean {
    return this.layout.guard !== undefined;
  }

  train(t: Training): Trainer {
    return new Trainer(this, t);
  }

  [Symbol.dispose](): void {
    for (const runner of this.all) runner[Symbol.dispose]();
  }
}

/** A program of a rank. */
interface Bound {
  readonly r: ModelRunner;
  readonly binding: Binding;
}

/** What an arena holds before a program runs, as NaN where fences are not looked at. */
const POISON = 0xff, FENCE = 0xa5;
const fenced: Bound[] = [];

/** @throws AssertionError when a program that was compiled with a fence has written outside its buffers */
export function checkFences(): number {
  for (const { binding } of fenced) {
    const { program } = binding;
    const bytes = binding.segment("arena").read(0, new Uint8Array(program.segmentBytes.arena));
    const inside = new Uint8Array(bytes.length);
    for (const row of program.table) {
      if (row.segment === "arena") inside.fill(1, row.offset, row.offset + row.bytes);
    }
    const broken = bytes.findIndex((byte, at) => !inside[at] && byte !== FENCE);
    assert.equal(broken, -1, `${program.name} wrote at ${broken} of the arena`);
    assert.ok(inside.includes(0) && inside.includes(1));
  }
  return fenced.splice(0).length;
}

/** Binds a program to memory full of NaN: what was never written must not be read. */
function bind(
  r: ModelRunner,
  program: Program,
  shared: Partial<Record<Segment, DeviceSegment>> = {},
  guard = false,
): Bound {
  const binding = r.bind(program, shared);
  if (guard && program.segmentBytes.arena) {
    binding.segment("arena").fill(0, program.segmentBytes.arena, FENCE);
    fenced.push({ r, binding });
  }
  for (const name of ["arena", "inputs", "outputs", "saved"] as const) {
    if (name === "arena" && guard) continue;
    if (program.segmentBytes[name]) binding.segment(name).fill(0, program.segmentBytes[name], POISON);
  }
  return { r, binding };
}

/** Runs one program on all tensor shards of a stage; `handed` are ports that another stage wrote, by shard. */
async function run(
  bound: readonly Bound[],
  batch: MicroBatch,
  handed: Readonly<Record<string, readonly Float32Array[]>>,
): Promise<void> {
  bound.forEach(({ binding }, t) => {
    writeBatch(binding, batch);
    for (const [name, rows] of Object.entries(batch.fields ?? {})) {
      binding.offer(`inputs/field.${name}`, rows);
    }
    for (const [name, rows] of Object.entries(handed)) if (rows[t]) binding.write(`inputs/${name}`, rows[t]);
  });
  await Promise.all(bound.map(({ r, binding }) => binding.run(dims(r, batch))));
}
const read = (bound: readonly Bound[], batch: MicroBatch, port: string): Float32Array[] =>
  bound.map(({ r, binding }) => binding.read(port, dims(r, batch)));

/** Live dims of a rank. */
function dims({ shard: { rank, tp } }: ModelRunner, { live, pairs = 0 }: MicroBatch): Live {
  const [from, to] = ownRows(live.tokens, rank, tp);
  return { ...live, pairs, shard: tp > 1 ? to - from : 0 };
}

/** What every rank has to the bit. */
function alike(values: readonly Float32Array[]): Float32Array {
  for (const v of values) assert.ok(sameBits(v, values[0]!), "ranks differ");
  return values[0]!;
}

interface TrainRank {
  readonly forward: Bound | null;
  readonly backward: Bound;
}

/** Runs mini-batches of a train call. */
class Trainer {
  /** By data-parallel rank, stage and tensor shard. */
  readonly #programs: readonly (readonly (readonly TrainRank[])[])[];
  readonly #updates: readonly Bound[];

  constructor(readonly ranks: Ranks, readonly t: Training) {
    const { layout: { strategy: { dp }, zero = 0, recompute = "nothing" } } = ranks;
    this.#programs = Array.from({ length: dp }, (_, d) =>
      ranks.pipeline(d).map((stage) =>
        stage.map((r) => {
          const { forward, backward } = compileTrain(r.shard, { ...t, recompute, ...ranks.fence }),
            whole = bind(r, backward, {}, ranks.guarded);
          const shared = (["inputs", "outputs", "saved"] as const).filter((s) =>
            backward.segmentBytes[s] > 0
          );
          const segments = Object.fromEntries(shared.map((s) => [s, whole.binding.segment(s)]));
          return { backward: whole, forward: forward && bind(r, forward, segments, ranks.guarded) };
        })
      ));
    this.#updates = Array.from(
      { length: dp },
      (_, rank) =>
        ranks.pipeline(rank).flat().map((r) =>
          bind(r, compileUpdate(r.shard, t.optimizer, { dp, rank, zero, ...ranks.fence }), {}, ranks.guarded)
        ),
    ).flat();
  }

  /**
   * Adds up the gradients of a mini-batch; loss and metrics by name.
   *
   * @param micro micro-batches by data-parallel rank
   * @param counts of the mini-batch
   */
  async accumulate(
    micro: readonly (readonly MicroBatch[])[],
    counts: Readonly<Record<string, number>>,
  ): Promise<Record<string, number>> {
    for (const r of this.ranks.all) r.zeroGradients();
    await Promise.all(micro.map(async (batches, d) => {
      const stages = this.#programs[d]!;
      for (const { backward: { binding } } of stages.at(-1)!) {
        binding.zero("outputs");
        for (const [name, n] of Object.entries(counts)) {
          binding.offer(`inputs/count.${name}`, Float32Array.of(n));
        }
      }
      for (const batch of batches) await this.#microBatch(stages, batch);
    }));
    const last = this.#programs.map((stages) => stages.at(-1)!.map((rank) => rank.backward));
    const [first] = last.map(([rank]) => rank!.binding);
    for (const port of Object.keys(first!.program.ports).filter((name) => name.startsWith("outputs/sum."))) {
      const sums = last.map((shards) => alike(shards.map(({ binding }) => binding.read(port)))[0]!);
      first!.write(port, Float32Array.of(sums.reduce((a, b) => Math.fround(a + b))));
    }
    return await fold(first!, compileFold(this.t.loss, this.t.fields));
  }

  async #microBatch(stages: readonly (readonly TrainRank[])[], batch: MicroBatch): Promise<void> {
    let x: readonly Float32Array[] = [], dy: readonly Float32Array[] = [];
    for (const stage of stages.slice(0, -1)) {
      const forward = stage.map((rank) => rank.forward!);
      await run(forward, batch, { x });
      x = read(forward, batch, "outputs/y");
    }
    for (const [i, stage] of [...stages.entries()].toReversed()) {
      const backward = stage.map((rank) => rank.backward), last = i === stages.length - 1;
      await run(backward, batch, last ? { x } : { dy });
      if (i > 0) dy = read(backward, batch, "outputs/dx");
    }
  }

  /** The gradient norm of update `n`, which starts at 1. */
  async update(n: number): Promise<number> {
    const { lr, betas: [beta1, beta2] } = this.t.optimizer,
      hyper = Float32Array.of(lr, 1 - beta1 ** n, 1 - beta2 ** n);
    for (const { binding } of this.#updates) binding.write("inputs/hyper", hyper);
    await Promise.all(this.#updates.map(({ binding }) => binding.run({})));
    return alike(this.#updates.map(({ binding }) => binding.read("outputs/norm")))[0]!;
  }
}
