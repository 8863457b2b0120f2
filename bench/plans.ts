/**
 * Plans of large models on H100, as the table of docs/plans.md:
 *
 *     deno run -A bench/plans.ts [--only REGEX] > docs/plans.md
 *
 * Needs no GPU: everything comes from `profiles/h100.json`.
 */
import { parseArgs } from "node:util";
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
import { printStrategy } from "../ir/mesh.ts";
import { explain, type Explanation } from "../planner/explain.ts";
import { refusalOf } from "../planner/refusal.ts";
import { search } from "../planner/search.ts";
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

interface Cell {
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

const CELLS: readonly Cell[] = [
  ...PAIRS.flatMap(([a, c]) => DEVICES.map((n) => ppo(BASE, a, c, n, 512, 1024))),
  ...PAIRS.flatMap(([a, c]) => DEVICES.map((n) => ppo(LONG, a, c, n, 128, 7168))),
  ...(["7B", "70B"] as const).flatMap((size) => [16, 64, 128].map((n) => grpo(size, n))),
  ...PAIRS.filter(([a]) => a !== "34B" && a !== "13B").map(([a, c]) =>
    ppo("PPO on 1024 devices", a, c, 1024, 512, 1024)
  ),
];

interface Row {
  readonly cell: Cell;
  readonly plan: Explanation | null;
  readonly refused: string;
  readonly seconds: number;
}

const PROFILE = await readProfile("h100", "this table");

function rowOf(cell: Cell): Row {
  const { graph, configs, devices, prompt, response } = cell, batch = graph.source.batch;
  const generate = graph.calls.find((c) => c.kind === "generate")!, { samples } = generate.sampling;
  const sizes = {
    sequences: batch * samples,
    group: samples,
    longestPrompt: prompt,
    longest: prompt + response,
    longestResponse: response,
  };
  const cluster = {
    nodes: devices / 8,
    devicesPerNode: 8,
    memoryBytes: PROFILE.memoryBytes,
    links: PROFILE.links,
  };
  const input = { graph, configs, cluster, profile: PROFILE, workload: fullLengths(sizes) };
  const start = performance.now(), result = search(input), seconds = (performance.now() - start) / 1000;
  if (result.best) return { cell, plan: explain(result), refused: "", seconds };
  const { missing, changes } = refusalOf(input, result);
  const refused = `lacks ${(missing / 2 ** 30).toFixed(0)} GiB a device; fits ${
    changes.map((c) => c.text).join(", or ") || "nowhere that was tried"
  }`;
  return { cell, plan: null, refused, seconds };
}

/** "dp8 0-7": layouts of the calls, those on all devices without their range. */
function planText({ calls }: Explanation, devices: number): string {
  return calls.map((c) => {
    const short = c.id.replace("generate", "gen").replace("infer", "inf");
    return `${short} ${printStrategy(c.assignment.strategy)}${
      c.devices === `0-${devices - 1}` ? "" : ` @${c.devices}`
    }`;
  }).join(", ");
}

function lineOf({ cell, plan, refused, seconds }: Row): string {
  const head = `| ${cell.name} | ${cell.devices} |`;
  if (!plan) return `${head} ${refused} | | | | | | ${seconds.toFixed(1)} | |`;
  const times = (name: string) => {
    const baseline = plan.baselines.find((b) => b.name === name)?.seconds ?? null;
    return baseline === null ? "–" : `${(baseline / plan.seconds).toFixed(2)}`;
  };
  const all = ["megatron", "data-parallel", "symmetric", "split"].map(times).join(" | ");
  return `${head} ${plan.seconds.toFixed(2)} | ${(100 * plan.gap).toFixed(1)} | ${all} | ${
    seconds.toFixed(1)
  } | ${planText(plan, cell.devices)} |`;
}

const median = (xs: readonly number[]) => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;

function summary(rows: readonly Row[], part: string): string {
  const found = rows.filter((r) => r.plan && r.cell.part === part);
  if (!found.length) return "";
  const gains = found.flatMap(({ plan }) => {
    const seconds = plan!.baselines.find((b) => b.name === "megatron")?.seconds ?? null;
    return seconds === null ? [] : [seconds / plan!.seconds - 1];
  });
  const gaps = found.map((r) => 100 * r.plan!.gap), mean = gains.reduce((a, b) => a + b, 0) / gains.length;
  return `Gap: median ${median(gaps).toFixed(1)} %, worst ${Math.max(...gaps).toFixed(1)} %. ` +
    (gains.length
      ? `Over the Megatron-style heuristic where that fits (${gains.length} cells): ${
        (100 * mean).toFixed(0)
      } % faster on average, ${(100 * median(gains)).toFixed(0)} % in the median.`
      : "");
}

const { values } = parseArgs({ options: { only: { type: "string", default: "" } } }), rows: Row[] = [];
for (const cell of CELLS.filter((c) => new RegExp(values.only).test(`${c.part} ${c.name} ${c.devices}`))) {
  const row = rowOf(cell);
  rows.push(row);
  console.error(lineOf(row));
}
console.log(`# Plans of large models

Made by \`deno run -A bench/plans.ts\` from \`profiles/h100.json\`, 8 H100 in a node, in bf16 with fp32 gradients; nothing here was measured on GPUs. How to read
it is in [planner.md](planner.md#plans-of-large-models). Seconds are of a step; gap is to the lower bound, in per cent; the four columns behind it are how
many times longer a baseline takes ("–": it does not fit), then seconds of the search, then the plan (@: devices, where not all).
`);
for (const part of new Set(rows.map((r) => r.cell.part))) {
  console.log(`## ${part}\n\n${summary(rows, part)}\n`);
  console.log("| models | devices | seconds | gap | megatron | dp | symmetric | split | search | plan |");
  console.log("| --- | --: | --: | --: | --: | --: | --: | --: | --: | --- |");
  console.log(`${rows.filter((r) => r.cell.part === part).map(lineOf).join("\n")}\n`);
}
