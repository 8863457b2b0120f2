/** The workflows and plans that predictions are compared on. */
import type { CallGraph } from "../ir/graph.ts";
import type { Cluster, ParallelStrategy, Recompute } from "../ir/plan.ts";
import {
  adamw,
  gae,
  groupAdvantages,
  models,
  perSequence,
  perToken,
  policyLoss,
  policyModel,
  ppoClip,
  prompts,
  score,
  shapedRewards,
  text,
  valueClip,
  valueModel,
  type Workflow,
  workflow,
} from "../mod.ts";
import type { CostInput } from "../planner/call_cost.ts";
import { type Candidate, Candidates, type Unit, unitsOf } from "../planner/candidates.ts";
import { Costs } from "../planner/cost.ts";
import { Evaluator } from "../planner/evaluate.ts";
import type { Profile } from "../planner/profile.ts";
import type { Choice, Point } from "../planner/space.ts";
import { fullLengths } from "../planner/workload.ts";
import { benchConfig } from "./cases.ts";

const BATCH = 16, RESPONSE = 48;
/** Tokens of every prompt. */
export const PROMPT = 32;
/** Of every model. */
export const CONFIG = benchConfig("S");
const even = score("rewards", { response: text }, ({ response }) => [...response].length % 2);

/** A step of PPO with three models and a score. */
export function ppo(): Workflow {
  const { actor, critic, ref } = models({
    actor: policyModel("random", adamw({ lr: 1e-5 })),
    critic: valueModel("random", adamw({ lr: 1e-5 })),
    ref: policyModel("random"),
  });
  return workflow({
    name: "ppo",
    data: prompts("random.jsonl", { batch: 2 * BATCH }),
    flow: actor.generate({ maxNewTokens: RESPONSE, ignoreEos: true })
      .then(even, ref.infer().as("refLogprobs"), critic.infer())
      .then(shapedRewards({ beta: 0.05 })).then(gae({ gamma: 1, lambda: 0.95 }))
      .then(
        actor.train(ppoClip({ epsilon: 0.2 }), { minibatches: 2 }),
        critic.train(valueClip({ epsilon: 0.2 }), { minibatches: 2 }),
      ),
  });
}

/** A step of GRPO with one model and a score. */
export function grpo(): Workflow {
  const { actor } = models({ actor: policyModel("random", adamw({ lr: 1e-5 })) });
  const loss = policyLoss(
    { logprobs: perToken, advantages: perSequence },
    (now, batch) => now.logprobs.sub(batch.logprobs).exp().mul(batch.advantages.spread()).mean().neg(),
  );
  return workflow({
    name: "grpo",
    data: prompts("random.jsonl", { batch: BATCH / 2 }),
    flow: actor.generate({ maxNewTokens: RESPONSE, samples: 4, ignoreEos: true }).then(even).then(
      groupAdvantages(),
    )
      .then(actor.train(loss, { minibatches: 2 })),
  });
}

/** A layout of a call: devices from … on, and how they are used. */
interface Said extends ParallelStrategy {
  readonly first?: number;
  readonly tokens?: number;
  readonly recompute?: Recompute;
  readonly zero?: 0 | 1;
}
const of = (dp: number, tp: number, pp: number, rest: Omit<Said, "dp" | "tp" | "pp"> = {}): Said => ({
  dp,
  tp,
  pp,
  ...rest,
});

/** A layout for every unit. */
export type Plan = (unit: Unit) => Said;
const everywhere = (said: Said): Plan => () => said;
const split = (generate: Said, infer: Said, actor: Said, critic: Said = actor): Plan => (unit) => {
  const { kind } = unit.calls[0]!;
  if (kind === "generate") return generate;
  if (kind === "infer") {
    return unit.model === "critic"
      ? { ...infer, first: infer.dp * infer.tp * infer.pp === 1 ? 1 : 0 }
      : infer;
  }
  return unit.model === "critic" ? critic : actor;
};

/** Plans on one device, and on two. */
export const ONE: readonly Plan[] = [
  everywhere(of(1, 1, 1, { tokens: 320 })),
  everywhere(of(1, 1, 1, { tokens: 1280 })),
  everywhere(of(1, 1, 1, { tokens: 1280, recompute: "cheap" })),
  everywhere(of(1, 1, 1, { tokens: 1280, recompute: "layers" })),
];
export const TWO: readonly Plan[] = [
  everywhere(of(2, 1, 1, { tokens: 640 })),
  everywhere(of(2, 1, 1, { tokens: 640, zero: 1 })),
  everywhere(of(1, 2, 1, { tokens: 640 })),
  everywhere(of(1, 1, 2, { tokens: 320 })),
  everywhere(of(1, 1, 2, { tokens: 640, recompute: "layers" })),
  split(
    of(2, 1, 1),
    of(1, 1, 1, { tokens: 640 }),
    of(1, 1, 1, { tokens: 640 }),
    of(1, 1, 1, { tokens: 640, first: 1 }),
  ),
  split(of(2, 1, 1), of(2, 1, 1, { tokens: 640 }), of(1, 2, 1, { tokens: 640 })),
  split(of(1, 2, 1), of(2, 1, 1, { tokens: 640 }), of(2, 1, 1, { tokens: 640 })),
  split(of(2, 1, 1), of(1, 1, 2, { tokens: 320 }), of(1, 1, 2, { tokens: 320 })),
];

/** What the planner is asked of a graph on so many devices. */
export function truthInput(graph: CallGraph, count: number, profile: Profile) {
  const { samples } = graph.calls.find((c) => c.kind === "generate")!.sampling;
  const sizes = {
    sequences: graph.source.batch * samples,
    group: samples,
    longestPrompt: PROMPT,
    longest: PROMPT + RESPONSE,
    longestResponse: RESPONSE,
  };
  const cluster: Cluster = { nodes: 1, devicesPerNode: count, memoryBytes: 2 ** 40, links: profile.links };
  const configs = Object.fromEntries(Object.keys(graph.models).map((name) => [name, CONFIG]));
  const input: CostInput = { graph, configs, cluster, profile, workload: fullLengths(sizes) };
  const units = unitsOf(input), costs = new Costs(input);
  return { input, units, candidates: new Candidates(costs), evaluator: new Evaluator(input, units, costs) };
}

/** A plan as a point of the space. */
export function pointOf(plan: Plan, units: readonly Unit[], candidates: Candidates, longest: number): Point {
  const choices = units.map((unit): Choice => {
    const { first = 0, tokens = 16 * longest, recompute = "nothing", zero = 0, dp, tp, pp } = plan(unit);
    const trains = unit.calls[0]!.kind === "train", generates = unit.calls[0]!.kind === "generate";
    const candidate: Candidate = candidates.candidate(unit, {
      mesh: { nodes: 1, devices: dp * tp * pp },
      strategy: { dp, tp, pp },
      microBatchTokens: generates ? 4096 : tokens,
      recompute: trains ? recompute : "nothing",
      zero: trains ? zero : 0,
      pages: 1,
    });
    return { candidate, first };
  });
  return { choices, offloaded: [] };
}
