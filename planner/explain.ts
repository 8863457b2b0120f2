/** Why a plan is as it is: shares, bytes, what binds it, what lost, how far from the best it can be. Plain values. */
import { printDevices, printStrategy } from "../ir/mesh.ts";
import type { Assignment } from "../ir/plan.ts";
import type { Baseline } from "./baselines.ts";
import type { DeviceBytes } from "./device_memory.ts";
import type { Found } from "./energy.ts";
import { homeOf } from "./evaluate.ts";
import type { SearchResult } from "./search.ts";
import { meshAt } from "./space.ts";

/** A call of the plan. */
export interface ExplainedCall {
  readonly id: string;
  readonly devices: string;
  readonly layout: string;
  readonly assignment: Assignment;
  readonly seconds: number;
  /** Of the device-seconds of a step that all devices have. */
  readonly share: number;
  /** Of its seconds, in which stages of its pipeline wait for others. */
  readonly bubble: number;
  /** On the fullest of its devices while it runs: everything that stays, and what the call has in turn, without copies of models. */
  readonly bytes: number;
}

export interface ExplainedMove {
  readonly name: string;
  readonly seconds: number;
}

export interface Explanation {
  readonly seconds: number;
  readonly bound: number;
  /** How much slower than the best plan ours is at most: seconds over bound, less 1. */
  readonly gap: number;
  readonly calls: readonly ExplainedCall[];
  /** Reallocations, and moves to and from the host. */
  readonly moves: readonly ExplainedMove[];
  readonly memory: readonly DeviceBytes[];
  readonly memoryBytes: number;
  /** Sentences. */
  readonly binding: readonly string[];
  readonly runnerUp: { readonly seconds: number; readonly differences: readonly string[] } | null;
  readonly baselines: readonly { readonly name: Baseline["name"]; readonly seconds: number | null }[];
  readonly evaluated: number;
  readonly exhaustive: boolean;
}

/** @param result of a search that found a plan */
export function explain(result: SearchResult): Explanation {
  const { best, bound, evaluator, units } = result;
  if (!best) throw new TypeError("Cannot explain a plan: the search found none");
  const { cluster } = evaluator.input, all = cluster.nodes * cluster.devicesPerNode, { evaluation } = best;
  const { assignments } = evaluator.plan(best);
  const calls = units.flatMap((unit, i) =>
    unit.calls.map((call, j): ExplainedCall => {
      const choice = best.choices[i]!, { candidate } = choice, cost = candidate.costs[j]!;
      const from = choice.first, to = from + candidate.mesh.nodes * candidate.mesh.devices;
      const here = evaluation.memory.filter((m) => m.device >= from && m.device < to);
      const { dp, tp } = candidate.strategy,
        stage = (device: number) => Math.floor((device - from) / (dp * tp));
      return {
        id: call.id,
        devices: printDevices(meshAt(choice, cluster), cluster),
        layout: printStrategy(candidate.strategy),
        assignment: assignments[call.id]!,
        seconds: cost.seconds,
        share: cost.seconds * (to - from) / (evaluation.period * all),
        bubble: cost.bubble,
        bytes: Math.max(...here.map((m) => {
          const at = stage(m.device), grads = call.kind === "train" ? candidate.held[at]!.grads : 0;
          return m.total - m.pool + cost.stages[at]!.turn + grads;
        })),
      };
    })
  );
  const moves = evaluation.schedule.step.flatMap((i, at): ExplainedMove[] => {
    const seconds = evaluation.seconds[at]!;
    if (i.op === "reallocate") return [{ name: `${i.from} → ${i.to}`, seconds }];
    return i.op === "fetch" || i.op === "offload"
      ? [{ name: `${i.op} ${i.replica} ${i.part}`, seconds }]
      : [];
  });
  return {
    seconds: evaluation.period,
    bound: bound.seconds,
    gap: evaluation.period / bound.seconds - 1,
    calls,
    moves,
    memory: evaluation.memory,
    memoryBytes: cluster.memoryBytes,
    binding: bindingOf(result, best),
    runnerUp: result.runnerUp && {
      seconds: result.runnerUp.evaluation.period,
      differences: differencesOf(result, best, result.runnerUp),
    },
    baselines: result.baselines.map(({ name, found }) => ({
      name,
      seconds: found?.evaluation.period ?? null,
    })),
    evaluated: result.evaluated,
    exhaustive: result.exhaustive,
  };
}

/** Memory counts as full when less than this share is left. */
const FULL = 0.05;

function bindingOf(
  { bound, units, evaluator }: SearchResult,
  { evaluation, choices, offloaded }: Found,
): string[] {
  const { memoryBytes } = evaluator.input.cluster,
    found = bound.parts.slice(0, 3).map(({ inequality, weight }) => {
      const what = inequality.chain.length
        ? `the chain ${inequality.name}`
        : "the work of all devices together";
      return `${Math.round(100 * weight)} % of the bound is ${what}`;
    });
  const fullest = evaluation.memory.reduce((a, b) => b.total > a.total ? b : a);
  if (fullest.total > (1 - FULL) * memoryBytes) {
    found.push(`memory is full on device ${fullest.device}: ${gib(fullest.total)} of ${gib(memoryBytes)}`);
  }
  if (bound.memory > 0.01 * bound.seconds) {
    found.push(`with twice the memory the bound would be up to ${(bound.memory / 2).toFixed(2)} s lower`);
  }
  units.forEach((unit, i) => {
    const { pages } = choices[i]!.candidate;
    if (pages < 1) {
      found.push(`${unit.id} has KV pages for ${Math.round(100 * pages)} % of its slots: sequences wait`);
    }
  });
  for (const model of offloaded) {
    const home = units[homeOf(units, model)]!;
    found.push(`${model} (${home.id}) is in host memory between uses`);
  }
  return found;
}

/** What the runner-up does otherwise, and what that costs its calls. */
function differencesOf(
  { units, evaluator: { input: { cluster } } }: SearchResult,
  best: Found,
  other: Found,
): string[] {
  return units.flatMap((unit, i) => {
    const a = best.choices[i]!, b = other.choices[i]!;
    const where = (c: typeof a) =>
      `${printStrategy(c.candidate.strategy)} on ${printDevices(meshAt(c, cluster), cluster)}`;
    if (where(a) === where(b)) return [];
    return [
      `${unit.id} ${where(b)} instead of ${where(a)}: ${signed(b.candidate.seconds - a.candidate.seconds)}`,
    ];
  });
}

const signed = (seconds: number): string => `${seconds < 0 ? "" : "+"}${Number(seconds.toPrecision(3))} s`;
const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
