/** Workflows, models and clusters that the planner's tests share. */
import { type ModelConfig, parseConfig } from "../../compiler/models/config.ts";
import { storedIn } from "../../compiler/models/storage.ts";
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
  rewardModel,
  score,
  shapedRewards,
  text,
  valueClip,
  valueModel,
  workflow,
} from "../../dsl/mod.ts";
import type { CallGraph } from "../../ir/graph.ts";
import type { Cluster } from "../../ir/plan.ts";
import type { CostInput } from "../../planner/call_cost.ts";
import { parseProfile, type Profile } from "../../planner/profile.ts";
import { fullLengths } from "../../planner/workload.ts";

export const profile = (name: string): Profile =>
  parseProfile(
    JSON.parse(Deno.readTextFileSync(new URL(`../../profiles/${name}.json`, import.meta.url))),
    name,
  );

/** A Llama of `layers` layers in bf16; widths as Llama-2 7B unless changed. */
export const llama = (layers: number, change: Record<string, unknown> = {}): ModelConfig => ({
  ...parseConfig({
    model_type: "llama",
    hidden_size: 4096,
    num_hidden_layers: layers,
    num_attention_heads: 32,
    num_key_value_heads: 32,
    intermediate_size: 11008,
    vocab_size: 32000,
    max_position_embeddings: 4096,
    hidden_act: "silu",
    ...change,
  }, "config.json"),
  storage: storedIn("bf16"),
});

export interface GraphOptions {
  readonly batch?: number;
  readonly maxNew?: number;
  readonly minibatches?: number;
  readonly maxLag?: number;
}

/** PPO with four models. */
export function ppoGraph(
  { batch = 64, maxNew = 64, minibatches = 2, maxLag = 0 }: GraphOptions = {},
): CallGraph {
  const { actor, critic, ref, reward } = models({
    actor: policyModel("m", adamw({ lr: 1e-3 })),
    critic: valueModel("m", adamw({ lr: 1e-3 })),
    ref: policyModel("m"),
    reward: rewardModel("m"),
  });
  return workflow({
    name: "ppo",
    data: prompts("p.jsonl", { batch }),
    flow: actor.generate({ maxNewTokens: maxNew, maxLag })
      .then(reward.infer(), ref.infer().as("refLogprobs"), critic.infer())
      .then(shapedRewards({ beta: 0.1 })).then(gae({ gamma: 1, lambda: 0.95 }))
      .then(
        actor.train(ppoClip({ epsilon: 0.2 }), { minibatches }),
        critic.train(valueClip(), { minibatches }),
      ),
  }).graph;
}

/** GRPO with one model and a reward function. */
export function grpoGraph(
  { batch = 16, maxNew = 64, minibatches = 1, maxLag = 0 }: GraphOptions = {},
): CallGraph {
  const { actor } = models({ actor: policyModel("m", adamw({ lr: 1e-3 })) });
  const grpo = policyLoss(
    { logprobs: perToken, advantages: perSequence },
    (now, batch) => now.logprobs.sub(batch.logprobs).exp().mul(batch.advantages.spread()).mean().neg(),
  );
  return workflow({
    name: "grpo",
    data: prompts("p.jsonl", { batch }),
    flow: actor.generate({ maxNewTokens: maxNew, samples: 4, maxLag })
      .then(score("rewards", { response: text }, () => 1))
      .then(groupAdvantages())
      .then(actor.train(grpo, { minibatches })),
  }).graph;
}

export interface InputOptions {
  readonly nodes?: number;
  readonly devicesPerNode?: number;
  readonly memoryGiB?: number;
  readonly prompt?: number;
  readonly layers?: number;
  readonly config?: ModelConfig;
  readonly profile?: Profile;
}

/** What the planner is asked for a graph on H100. */
export function inputOf(graph: CallGraph, o: InputOptions = {}): CostInput {
  const used = o.profile ?? profile("h100"),
    config = o.config ?? llama(o.layers ?? 4),
    prompt = o.prompt ?? 64;
  const generate = graph.calls.find((c) => c.kind === "generate");
  const maxNew = generate?.sampling.maxNewTokens ?? 64, samples = generate?.sampling.samples ?? 1;
  const cluster: Cluster = {
    nodes: o.nodes ?? 1,
    devicesPerNode: o.devicesPerNode ?? 2,
    memoryBytes: o.memoryGiB === undefined ? used.memoryBytes : o.memoryGiB * 2 ** 30,
    links: used.links,
  };
  const sizes = {
    sequences: graph.source.batch * samples,
    group: samples,
    longestPrompt: prompt,
    longest: prompt + maxNew,
    longestResponse: maxNew,
  };
  return {
    graph,
    configs: Object.fromEntries(Object.keys(graph.models).map((name) => [name, config])),
    cluster,
    profile: used,
    workload: fullLengths(sizes),
  };
}
