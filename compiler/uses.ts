/** Which rank of a call's mesh runs which program with which memory: what the engine binds and the byte table adds up. */
import { type Call, isHostCall, type TrainCall } from "../ir/graph.ts";
import { type Coordinates, coordinatesOf } from "../ir/mesh.ts";
import type { Segment } from "../ir/op.ts";
import type { ParallelStrategy } from "../ir/plan.ts";
import type { Program } from "../ir/program.ts";
import { inFlight } from "./pipeline.ts";
import { generateGroups, type Programs } from "./programs.ts";

export type Part =
  | "prefill"
  | "decode"
  | "copy"
  | "infer"
  | "forward"
  | "backward"
  | "closing"
  | "fold"
  | "update"
  | "summedUpdate"
  | "compute";

/** One program of a call, bound on one rank. */
export interface Use {
  readonly rank: number;
  readonly at: Coordinates;
  /** A pipeline has several micro-batches in flight: each has inputs, outputs and what it saves of its own. */
  readonly slot: number;
  readonly part: Part;
  readonly program: Program;
  /** Names of the memory that is the call's own; two uses with one name on one device share it. */
  readonly memory: Readonly<Partial<Record<Segment, string>>>;
}

const ONE: ParallelStrategy = { dp: 1, tp: 1, pp: 1 };

/** Slots of a stage. */
export function slotsOf(call: Call, strategy: ParallelStrategy, stage: number): number {
  if (call.kind === "generate") return generateGroups(strategy);
  if (call.kind === "infer") return strategy.pp;
  return call.kind === "train" ? inFlight(strategy.pp, stage, Infinity) : 1;
}

/** Everything that a call runs on its mesh. */
export function usesOf(call: Call, programs: Programs, strategy: ParallelStrategy = ONE): Use[] {
  if (isHostCall(call)) return [];
  const ranks = strategy.dp * strategy.tp * strategy.pp;
  return Array.from({ length: ranks }, (_, rank) => {
    const at = coordinatesOf(strategy, rank), slots = slotsOf(call, strategy, at.stage);
    return Array.from({ length: slots }, (_, slot) => {
      const base = slot === 0 ? call.id : `${call.id} #${slot + 1}`;
      return partsOf(call, programs, at, slot).map(({ part, program, io, shared }): Use => ({
        rank,
        at,
        slot,
        part,
        program,
        memory: named(program, `${io ?? base}`, shared ? base : null),
      }));
    }).flat();
  }).flat();
}

interface PartProgram {
  readonly part: Part;
  readonly program: Program;
  /** Name of inputs and outputs, where not the call's. */
  readonly io?: string;
  /** Cache and state are the call's. */
  readonly shared?: boolean;
}

function partsOf(call: Call, programs: Programs, at: Coordinates, slot: number): PartProgram[] {
  const { stage, tp, dp } = at, name = slot === 0 ? "" : ` #${slot + 1}`;
  switch (call.kind) {
    case "generate": {
      const { prefill, decode, copyPages } = programs.generate[call.id]!.ranks[stage]![tp]!;
      return [
        { part: "prefill", program: prefill, io: `${call.id}${name} prefill`, shared: true },
        { part: "decode", program: decode, io: `${call.id}${name} decode`, shared: true },
        { part: "copy", program: copyPages, io: `${call.id}${name} copy`, shared: true },
      ];
    }
    case "infer":
      return [{ part: "infer", program: programs.infer[call.id]![stage]![tp]! }];
    case "train": {
      const train = programs.train[call.id]!, { forward, backward, closing } = train.ranks[stage]![tp]!;
      const last = stage === train.ranks.length - 1, io = `${call.model} update`;
      const grid = programs.summedUpdate[call.model], summed = grid && grid[stage]![tp]![dp]!;
      return [
        ...forward ? [{ part: "forward", program: forward } as const] : [],
        { part: "backward", program: backward },
        ...closing ? [{ part: "closing", program: closing } as const] : [],
        ...slot === 0 ? [{ part: "update", program: updateOf(call, programs, at), io } as const] : [],
        ...slot === 0 && summed ? [{ part: "summedUpdate", program: summed, io } as const] : [],
        ...slot === 0 && last && tp === 0 && dp === 0
          ? [{ part: "fold", program: train.fold, io: `${call.id} fold` } as const]
          : [],
      ];
    }
    case "compute":
      return [{ part: "compute", program: programs.compute[call.id]! }];
    case "score":
    case "select":
    case "refill":
      return [];
  }
}

const updateOf = (call: TrainCall, programs: Programs, { stage, tp, dp }: Coordinates): Program =>
  programs.update[call.model]![stage]![tp]![dp]!;

/** Inputs, outputs and what is saved are the micro-batch's; cache and state the rollout's. */
function named(program: Program, io: string, shared: string | null): Partial<Record<Segment, string>> {
  const own: readonly (readonly [Segment, string])[] = [
    ["inputs", `${io} inputs`],
    ["outputs", `${io} outputs`],
    ["saved", `${io} saved`],
    ...shared === null ? [] : [["kv", `${shared} kv`], ["state", `${shared} state`]] as const,
  ];
  return Object.fromEntries(own.filter(([segment]) => program.segmentBytes[segment] > 0));
}

/** Activations that are saved, and caches: nothing of them is needed once the call has ended. */
export const inTurn = (segment: Segment): boolean => segment === "saved" || segment === "kv";

/** Name of the arena of a call's programs: one at a time runs on a device. */
export const arenaOf = (call: string): string => `${call} arena`;
