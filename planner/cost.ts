/** Seconds and bytes of a call under a layout, from its compiled programs: nothing here knows what a layer computes. */
import {
  compileCompute,
  compileInfer,
  compileTrain,
  compileUpdate,
  type InferOutput,
} from "../compiler/compile.ts";
import { keepsTogether } from "../compiler/expression.ts";
import type { Shard } from "../compiler/layout.ts";
import { storageOf } from "../compiler/models/storage.ts";
import { microMaxima, stepMaxima } from "../compiler/sizes.ts";
import { stagesOf } from "../compiler/stages.ts";
import {
  type Call,
  type InferCall,
  isHostCall,
  type ModelFunctionCall,
  type TrainCall,
} from "../ir/graph.ts";
import { align, BYTES } from "../ir/op.ts";
import type { ParallelStrategy } from "../ir/plan.ts";
import {
  assigned,
  type CallCost,
  type CallLayout,
  type CostInput,
  pipelined,
  type Pricing,
  sizesKey,
  type StageBytes,
  type Staged,
} from "./call_cost.ts";
import { generateCost } from "./cost_generate.ts";
import { groupsOf, stageLink } from "./groups.ts";
import { distinct, type Groups, type Live, programSeconds } from "./price.ts";
import { sharing } from "./sharing.ts";
import { type Compiled, modelKey, type Stage, type StageProgram, StagePrograms } from "./stage_programs.ts";
import { type Lengths, packed, sequencesOf } from "./workload.ts";

/** Costs of the calls of one run; what was compiled and priced once is remembered. */
export class Costs implements Pricing {
  readonly #models = new Map<string, StagePrograms>();
  readonly #cuts = new Map<string, readonly Stage[]>();
  readonly #prices = new Map<string, number>();
  readonly #names = new Map<Compiled, number>();
  readonly #joined = new Map<string, Groups>();
  readonly #distinct = new Map<string, Groups>();
  readonly #numbers = new WeakMap<Groups, number>();
  readonly #sequences: readonly Lengths[];

  constructor(readonly input: CostInput) {
    this.#sequences = sequencesOf(input.workload, input.workload.sizes.sequences);
  }

  /** Seconds and bytes of a model function call. */
  of(call: ModelFunctionCall, layout: CallLayout): CallCost {
    const { scales, profile } = this.input, scale = scales?.[call.id] ?? 1;
    const cost = sharing(this.#alone(call, layout), profile.capacity), { seconds, bubble, work, host } = cost;
    if (scale === 1) return cost;
    return {
      ...cost,
      seconds: scale * seconds,
      bubble: scale * bubble,
      work: scale * work,
      host: scale * host,
    };
  }

  /** Where every device has processors of its own, and all is as predicted. */
  #alone(call: ModelFunctionCall, layout: CallLayout): CallCost {
    switch (call.kind) {
      case "generate":
        return generateCost(call, layout, this);
      case "infer":
        return this.#infer(call, layout);
      case "train":
        return this.#train(call, layout);
    }
  }

  /** Seconds of a call that uses no model. */
  hostSeconds(call: Call): number {
    const { workload: { sizes, hostSeconds }, graph, profile } = this.input;
    if (isHostCall(call)) return hostSeconds[call.id] ?? 0;
    if (call.kind !== "compute") return 0;
    const maxima = stepMaxima(sizes), program = compileCompute(call.expr, { maxima, fields: graph.fields });
    const alone = { ranks: 1, perNode: 1, microseconds: 0, GBps: Infinity };
    const groups = { tp: alone, kv: alone, tied: alone, dp: alone, world: alone };
    return profile.roundMicroseconds * 1e-6 +
      programSeconds(distinct(program.work), { ...maxima, context: 0 }, groups, profile);
  }

  /** The stages of a model and what compiles their programs. */
  staged(call: ModelFunctionCall, { strategy: { tp, pp } }: Pick<CallLayout, "strategy">): Staged {
    const config = this.input.configs[call.model]!, { head } = this.input.graph.models[call.model]!;
    const key = modelKey(config, head);
    let programs = this.#models.get(key), stages = this.#cuts.get(`${key} ${tp} ${pp}`);
    if (!programs) this.#models.set(key, programs = new StagePrograms(config, head));
    if (!stages) {
      stages = stagesOf(config, head, pp).map(({ from, to }, i): Stage => {
        return { tp, layers: to - from, first: i === 0, last: i === pp - 1 };
      });
      this.#cuts.set(`${key} ${tp} ${pp}`, stages);
    }
    return {
      stages,
      shard: (stage) => programs.shard(stage, stage.layers),
      of: (stage, what, compile) => programs.of(stage, what, compile),
    };
  }

  /** Seconds of a stage's program. */
  price(program: StageProgram, live: Live, groups: Groups): number {
    const { tokens, actions, sequences, context } = live;
    const at = `${this.#numbers.get(groups)} ${tokens} ${actions} ${sequences} ${context}`;
    return program.seconds((p) => {
      let name = this.#names.get(p);
      if (name === undefined) this.#names.set(p, name = this.#names.size);
      const key = `${name} ${at}`;
      let seconds = this.#prices.get(key);
      if (seconds === undefined) {
        this.#prices.set(key, seconds = programSeconds(p.work, live, groups, this.input.profile));
      }
      return seconds;
    });
  }

  /** One object for equal groups. */
  groups(call: ModelFunctionCall, { mesh, strategy }: CallLayout): Groups {
    const { configs, cluster } = this.input, { heads, kvHeads } = configs[call.model]!;
    const { dp, tp, pp } = strategy,
      key = `${heads} ${kvHeads} ${mesh.nodes} ${mesh.devices} ${dp} ${tp} ${pp}`;
    const known = this.#joined.get(key);
    if (known) return known;
    const made = groupsOf(configs[call.model]!, mesh, strategy, cluster.links), text = JSON.stringify(made);
    const same = this.#distinct.get(text) ?? made;
    if (same === made) {
      this.#distinct.set(text, made);
      this.#numbers.set(made, this.#distinct.size);
    }
    this.#joined.set(key, same);
    return same;
  }

  /** Sequences of one of `parts` equal shares of a step: those of the largest one. */
  share(parts: number): readonly Lengths[] {
    return this.#sequences.slice(0, Math.ceil(this.#sequences.length / parts));
  }

  /** Seconds in which a stage gets the activations of so many tokens from the stage before. */
  handOver(call: ModelFunctionCall, { mesh, strategy }: CallLayout, tokens: number): number {
    const { microseconds, GBps } = stageLink(mesh, strategy, this.input.cluster.links);
    const config = this.input.configs[call.model]!, row = config.hidden * BYTES[storageOf(config).weights];
    return microseconds * 1e-6 + tokens / strategy.tp * row / (GBps * 1e9);
  }

  /** What the host does for a micro-batch: it writes what the programs read. */
  hostRound(tokens: number): number {
    const { roundMicroseconds, hostGBps } = this.input.profile;
    return roundMicroseconds * 1e-6 + INPUTS * tokens / (hostGBps * 1e9);
  }

  #infer(call: InferCall, layout: CallLayout): CallCost {
    const { dp } = layout.strategy,
      { sizes } = this.input.workload,
      maxima = microMaxima(assigned(layout), sizes);
    const { stages, of } = this.staged(call, layout), groups = this.groups(call, layout);
    const micro = packed(this.share(dp), layout.microBatchTokens, 1),
      live = liveOf(micro, layout.strategy, 1);
    const outputs = Object.keys(call.writes) as InferOutput[], what = `infer ${outputs} ${sizesKey(maxima)}`;
    const programs = stages.map((stage) =>
      of(stage, what, (shard) => compileInfer(shard, { maxima, outputs }))
    );
    const each = programs.map((p, i) =>
      this.price(p, live, groups) +
      (i ? this.handOver(call, layout, micro.tokens) : this.hostRound(micro.tokens))
    );
    const bytes = programs.map(({ segmentBytes: b }): StageBytes => {
      return {
        turn: align(b.arena),
        own: layout.strategy.pp * (b.inputs + b.outputs),
        constants: b.constants,
      };
    });
    const host = dp * micro.count * this.hostRound(micro.tokens);
    return { ...pipelined(each, micro.count, dp * layout.strategy.tp), host, stages: bytes };
  }

  #train(call: TrainCall, layout: CallLayout): CallCost {
    const { dp, pp } = layout.strategy, { graph, workload: { sizes } } = this.input;
    const { stages, of } = this.staged(call, layout), groups = this.groups(call, layout);
    const maxima = microMaxima(assigned(layout), sizes), { recompute, zero } = layout;
    const o = { loss: call.loss, fields: graph.fields, recompute, maxima },
      what = `${call.id} ${recompute} ${sizesKey(maxima)}`;
    const scope = keepsTogether(call.loss),
      together = scope === "sequence" ? 1 : scope === "pair" ? 2 : sizes.group;
    const micro = packed(this.share(dp * call.minibatches), layout.microBatchTokens, together);
    const live = liveOf(micro, layout.strategy, sizes.group),
      passed = this.handOver(call, layout, micro.tokens);
    const optimizer = graph.models[call.model]!.optimizer!, share = { dp, rank: dp - 1, zero };
    const both = remembered((s: Shard) => compileTrain(s, o)), hides = this.input.profile.overlaps && dp > 1;
    const programs = stages.map((stage) => ({
      forward: stage.last ? null : of(stage, `${what} forward`, (s) => both(s).forward!),
      backward: of(stage, `${what} backward`, (s) => both(s).backward),
      update: of(
        stage,
        `update ${zero ? dp : Math.min(dp, 2)} ${zero}`,
        (s) => compileUpdate(s, optimizer, share),
      ),
      summed: hides
        ? of(
          stage,
          `update of sums ${zero ? dp : 2} ${zero}`,
          (s) => compileUpdate(s, optimizer, { ...share, summed: true }),
        )
        : null,
    }));
    const each = programs.map(({ forward, backward }, i) =>
      (forward ? this.price(forward, live, groups) : 0) + this.price(backward, live, groups) +
      (i ? passed : this.hostRound(micro.tokens)) + (forward ? passed : 0)
    );
    const update = Math.max(...programs.map(({ forward, backward, update, summed }) => {
      const whole = this.price(update, live, groups);
      if (!summed) return whole;
      // The last stage's program is forward and backward pass in one, and two thirds of the work are backward.
      const behind = this.price(backward, live, groups) * (forward ? 1 : 2 / 3);
      const rest = this.price(summed, live, groups);
      return rest + Math.max(0, whole - rest - behind);
    }));
    const wide = dp * layout.strategy.tp, times = call.minibatches * call.epochs;
    const { seconds, bubble, work } = pipelined(each, micro.count, wide), begin = this.hostRound(0);
    const bytes = programs.map(({ forward, backward, update }, i): StageBytes => {
      const b = backward.segmentBytes, f = forward?.segmentBytes ?? b, slots = Math.max(1, pp - i);
      const most = (segment: "inputs" | "outputs" | "saved") => Math.max(b[segment], f[segment]);
      return {
        turn: align(Math.max(b.arena, f.arena, update.segmentBytes.arena)) + slots * align(most("saved")),
        own: slots * (most("inputs") + most("outputs")) +
          update.segmentBytes.inputs + update.segmentBytes.outputs,
        constants: b.constants,
      };
    });
    return {
      seconds: times * (seconds + update + begin),
      bubble: times * bubble,
      work: times * (work + wide * pp * update),
      host: times * dp * (micro.count * this.hostRound(micro.tokens) + begin),
      stages: bytes,
    };
  }
}

/** Bytes of ids, positions, rows, targets and a few fields that the host writes for a token. */
const INPUTS = 32;

/** A function whose results are kept by its argument. */
function remembered<A, B>(f: (a: A) => B): (a: A) => B {
  const known = new Map<A, B>();
  return (a) => {
    if (!known.has(a)) known.set(a, f(a));
    return known.get(a)!;
  };
}

/** Average live dims of micro-batches. */
function liveOf(micro: ReturnType<typeof packed>, { tp }: ParallelStrategy, group: number): Live {
  const { tokens, actions, sequences } = micro;
  return {
    one: 1,
    tokens,
    actions,
    sequences,
    groups: sequences / group,
    pairs: sequences / 2,
    shard: tp > 1 ? tokens / tp : 0,
    context: 0,
  };
}
