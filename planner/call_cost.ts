/** What the cost of a call is asked with, and what the answer is. */
import type { Shard } from "../compiler/layout.ts";
import type { ModelConfig } from "../compiler/models/config.ts";
import type { CallGraph, ModelFunctionCall } from "../ir/graph.ts";
import type { Maxima } from "../ir/op.ts";
import type { Assignment, Cluster } from "../ir/plan.ts";
import type { Program } from "../ir/program.ts";
import type { MeshShape } from "./groups.ts";
import type { Groups, Live } from "./price.ts";
import type { Profile } from "./profile.ts";
import type { Stage, StageProgram } from "./stage_programs.ts";
import type { Lengths, Workload } from "./workload.ts";

/** What a planner knows of a run. */
export interface CostInput {
  readonly graph: CallGraph;
  /** By the models' names. */
  readonly configs: Readonly<Record<string, ModelConfig>>;
  readonly cluster: Cluster;
  readonly profile: Profile;
  readonly workload: Workload;
  /** Bytes that kernels use on every device beside what programs name. */
  readonly scratchBytes?: number;
  /** Measured over predicted seconds of calls, by call: what a run saw, for the plan that follows. 1 where it says nothing. */
  readonly scales?: Readonly<Record<string, number>>;
}

/** How a call runs, wherever in the cluster it does. */
export interface CallLayout extends Pick<Assignment, "strategy" | "microBatchTokens" | "zero" | "recompute"> {
  readonly mesh: MeshShape;
  /** Of the KV pages that all slots can use; 1 but for generate calls. */
  readonly pages: number;
}

/** Bytes that a call takes on every rank of a stage beside the model. */
export interface StageBytes {
  /** In turn with others, while the call runs: activations, saved activations, caches. */
  readonly turn: number;
  /** Its own for the whole run: inputs and outputs. */
  readonly own: number;
  /** The model's rotary table as large as this call needs it; a model has one on a device. */
  readonly constants: number;
}

export interface CallCost {
  readonly seconds: number;
  /** Of `seconds`, in which a stage waits for others: filling and draining of the pipeline. */
  readonly bubble: number;
  /** Seconds in which its devices are busy, all of them together. */
  readonly work: number;
  /** Seconds of the host for all of its ranks together. */
  readonly host: number;
  readonly stages: readonly StageBytes[];
}

/** Programs of the stages of a call. */
export interface Staged {
  readonly stages: readonly Stage[];
  /** The part of the model that the last rank of a stage's tensor-parallel group has. */
  readonly shard: (stage: Stage) => Shard;
  readonly of: (stage: Stage, what: string, compile: (shard: Shard) => Program) => StageProgram;
}

/** What the kinds of calls share when they are priced, see `cost.ts`. */
export interface Pricing {
  readonly input: CostInput;
  staged(call: ModelFunctionCall, layout: Pick<CallLayout, "strategy">): Staged;
  groups(call: ModelFunctionCall, layout: CallLayout): Groups;
  price(program: StageProgram, live: Live, groups: Groups): number;
  share(parts: number): readonly Lengths[];
  handOver(call: ModelFunctionCall, layout: CallLayout, tokens: number): number;
  hostRound(tokens: number): number;
}

/**
 * Micro-batches through stages one behind the other: the slowest one sets the pace, the others fill and drain.
 *
 * @param wide ranks that work so side by side
 */
export function pipelined(
  each: readonly number[],
  micros: number,
  wide: number,
): Pick<CallCost, "seconds" | "bubble" | "work"> {
  const pace = Math.max(...each), all = each.reduce((n, s) => n + s, 0), fill = all - pace;
  return { seconds: fill + micros * pace, bubble: fill, work: wide * micros * all };
}

/** The sizes that a program's memory depends on. */
export const sizesKey = (m: Maxima): string => Object.values(m).join();
/** A layout as the sizes of programs see it. */
export const assigned = ({ strategy, microBatchTokens, zero, recompute }: CallLayout): Assignment => ({
  mesh: { node: 0, nodes: 1, device: 0, devices: 1 },
  strategy,
  microBatchTokens,
  zero,
  recompute,
  offload: false,
});
