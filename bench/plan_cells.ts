/** The cases of the table of plans: PPO and GRPO with Llama-2 models on 8 to 1024 H100. */
import { type ModelConfig, parseConfig } from "../compiler/models/config.ts";
import { storedIn } from "../compiler/models/storage.ts";
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
} from "../dsl/mod.ts";
import type { CallGraph } from "../ir/graph.ts";
import type { CostInput } from "../planner/call_cost.ts";
import { fullLengths } from "../planner/workload.ts";
import { readProfile } from "../run/cluster.ts";

/** Llama-2 7B, 13B and 70B, and CodeLlama 34B: [hidden, layers, heads, key and value heads, intermediate]. */
const SIZES = {
  "7B": [4096, 32, 32, 32, 11008],
  "13B": [5120, 40, 40, 40, 13824],
  "34B": [8192, 48, 64, 8, 22016],
  "70B": [8192, 80, 64, 8, 28672],
} as const;
type Size = keyof typeof SIZES;

function configOf(size: Size): ModelConfig {
  const [hidden_size, num_hidden_layers, num_attention_heads, num_key_value_heads, intermediate_size] =
    SIZES[size];
  const shape = {
    hidden_size,
    num_hidden_layers,
    num_attention_heads,
    num_key_value_heads,
    intermediate_size,
  };
  const rest = { model_type: "llama", vocab_size: 32000, max_position_embeddings: 8192, hidden_act: "silu" };
  return { ...parseConfig({ ...rest, ...shape }, size), storage: storedIn("bf16") };
}

export interface Cell {
  readonly name: string;
  readonly part: string;
  readonly graph: CallGraph;
  readonly configs: Readonly<Record<string, ModelConfig>>;
  readonly devices: number;
  readonly prompt: number;
  readonly response: number;
}

function ppo(
  part: string,
  actorSize: Size,
  criticSize: Size,
  devices: number,
  batch: number,
  response: number,
): Cell {
  const { actor, critic, ref, reward } = models({
    actor: policyModel("actor", adamw({ lr: 1e-6 })),
    critic: valueModel("critic", adamw({ lr: 5e-6 })),
    ref: policyModel("actor"),
    reward: rewardModel("critic"),
  });
  const { graph } = workflow({
    name: "ppo",
    data: prompts("prompts.jsonl", { batch }),
    flow: actor.generate({ maxNewTokens: response })
      .then(reward.infer(), ref.infer().as("refLogprobs"), critic.infer())
      .then(shapedRewards({ beta: 0.1 })).then(gae({ gamma: 1, lambda: 0.95 }))
      .then(
        actor.train(ppoClip({ epsilon: 0.2 }), { minibatches: 8 }),
        critic.train(valueClip(), { minibatches: 8 }),
      ),
  });
  const [a, c] = [configOf(actorSize), configOf(criticSize)];
  return {
    name: `${actorSize} + ${criticSize}`,
    part,
    graph,
    configs: { actor: a, critic: c, ref: a, reward: c },
    devices,
    prompt: 1024,
    response,
  };
}

function grpo(size: Size, devices: number): Cell {
  const { actor, ref } = models({
    actor: policyModel("actor", adamw({ lr: 1e-6 })),
    ref: policyModel("actor"),
  });
  const loss = policyLoss(
    { logprobs: perToken, refLogprobs: perToken, advantages: perSequence },
    (now, batch) => {
      const kl = batch.refLogprobs.sub(now.logprobs).exp().sub(batch.refLogprobs.sub(now.logprobs)).sub(1);
      return now.logprobs.sub(batch.logprobs).exp().mul(batch.advantages.spread()).sub(kl.mul(0.04)).mean()
        .neg();
    },
  );
  const { graph } = workflow({
    name: "grpo",
    data: prompts("prompts.jsonl", { batch: 64 }),
    flow: actor.generate({ maxNewTokens: 1024, samples: 8 })
      .then(score("rewards", { response: text }, () => 1), ref.infer().as("refLogprobs"))
      .then(groupAdvantages()).then(actor.train(loss, { minibatches: 8 })),
  });
  const config = configOf(size);
  return {
    name: `GRPO ${size}`,
    part: "GRPO",
    graph,
    configs: { actor: config, ref: config },
    devices,
    prompt: 1024,
    response: 1024,
  };
}

const PAIRS = [["7B", "7B"], ["13B", "7B"], ["34B", "7B"], ["70B", "7B"], ["70B", "70B"]] as const;
const DEVICES = [8, 16, 32, 64, 128] as const;
const BASE = "PPO, 1024 + 1024 tokens, batch 512", LONG = "PPO, 1024 + 7168 tokens, batch 128";

export const CELLS: readonly Cell[] = [
  ...PAIRS.flatMap(([a, c]) => DEVICES.map((n) => ppo(BASE, a, c, n, 512, 1024))),
  ...PAIRS.flatMap(([a, c]) => DEVICES.map((n) => ppo(LONG, a, c, n, 128, 7168))),
  ...(["7B", "70B"] as const).flatMap((size) => [16, 64, 128].map((n) => grpo(size, n))),
  ...PAIRS.filter(([a]) => a !== "34B" && a !== "13B").map(([a, c]) =>
    ppo("PPO on 1024 devices", a, c, 1024, 512, 1024)
  ),
];

const PROFILE = await readProfile("h100", "the table of plans");

/** What the planner is asked for a cell: H100 in nodes of eight, every length as long as can be. */
export function inputOf({ graph, configs, devices, prompt, response }: Cell): CostInput {
  const generate = graph.calls.find((c) => c.kind === "generate")!, { samples } = generate.sampling;
  const sizes = {
    sequences: graph.source.batch * samples,
    group: samples,
    longestPrompt: prompt,
    longest: prompt + response,
    longestResponse: response,
  };
  const { memoryBytes, links } = PROFILE,
    cluster = { nodes: devices / 8, devicesPerNode: 8, memoryBytes, links };
  return { graph, configs, cluster, profile: PROFILE, workload: fullLengths(sizes) };
}
