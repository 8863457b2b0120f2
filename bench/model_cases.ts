/** One model at a time: a training step, log-probabilities, generation. Peers have the same cases. */
import { batchOf } from "../engine/batch.ts";
import type { Sample } from "../engine/sample.ts";
import type { Stage } from "../engine/stage.ts";
import type { Device } from "../ffi/device.ts";
import type { Devices } from "../engine/devices.ts";
import type { ParallelStrategy } from "../ir/plan.ts";
import type { ModelConfig } from "../compiler/models/config.ts";
import type { DataSizes } from "../compiler/programs.ts";
import { adamw, conversations, models, policyModel, prompts, sft, type Workflow, workflow } from "../mod.ts";
import {
  benchConfig,
  benchSequences,
  benchStage,
  promptRows,
  sequenceRows,
  type Size,
  usefulFlops,
} from "./cases.ts";
import { floorSeconds, type Phase, type Rates, rolloutPhases, trainingPhases } from "./floor.ts";
import { type Limits, peakGflops, timed, type Timing } from "./measure.ts";

const BATCH = 8, LENGTH = 256, PROMPT = 32, NEW_TOKENS = 128;

export interface ModelResult extends Timing {
  readonly tokens_per_s: number;
  readonly tokens_per_s_best: number;
  readonly gflops: number;
  /** Of fused multiply-adds in registers, before and after the case: compare two runs only when they agree. */
  readonly peak_gflops: readonly [number, number];
  /** `gflops` ÷ the better peak. */
  readonly share: number;
  readonly batch: number;
  /** The least time that this machine allows, and what part of the median it is. */
  readonly floor_s?: number;
  readonly of_floor?: number;
  /** Milliseconds of one repetition by kind of operation, and `host`: when no program ran. */
  readonly profile_ms?: Readonly<Record<string, number>>;
}

export interface CaseOptions {
  readonly size: Size;
  readonly limits: Limits;
  readonly profile: boolean;
  /** What the machine can do, to say how far the case is from its floor. */
  readonly rates?: Rates;
  readonly strategy: ParallelStrategy;
}

interface Work {
  readonly workflow: Workflow;
  readonly rows: readonly Sample[];
  readonly sizes: DataSizes;
  /** Tokens that one repetition makes, and operations that they need. */
  readonly tokens: number;
  readonly flops: number;
  /** The same work in the pieces that its floor is the sum of. */
  readonly phases: readonly Phase[];
}

/** Runs one case; `name` as in the peers' benchmark: train_step, logprob, gen_b8_greedy. */
export async function modelCase(devices: Devices, name: string, o: CaseOptions): Promise<ModelResult> {
  const config = benchConfig(o.size), work = workOf(name, config), batch = work.rows.length;
  const [device] = devices.all as [Device];
  const stage = await benchStage(devices, work.workflow, config, work.sizes, { strategy: o.strategy }),
    step = counted(stage, work.rows);
  const floor = o.rates && floorSeconds(work.phases, o.rates);
  const before = peakGflops(device),
    limits = name.startsWith("gen")
      ? { ...o.limits, repetitions: Math.min(5, o.limits.repetitions) }
      : o.limits;
  await step();
  device.profile();
  const timing = await timed(step, { ...limits, warm: 0 });
  const profile = device.profile(), after = peakGflops(device), gflops = work.flops / timing.median_s / 1e9;
  stage.dispose();
  stage.engine.dispose();
  return {
    ...timing,
    tokens_per_s: work.tokens / timing.median_s,
    tokens_per_s_best: work.tokens / timing.best_s,
    gflops,
    peak_gflops: [before, after],
    share: gflops / Math.max(before, after),
    batch,
    ...(floor !== undefined && { floor_s: floor, of_floor: floor / timing.median_s }),
    ...(o.profile && { profile_ms: perRepetition(profile, timing) }),
  };
}

function counted(stage: Stage, rows: readonly Sample[]): () => Promise<unknown> {
  let steps = 0;
  return () => stage.step(steps++, batchOf(rows, 1));
}

/** Means over repetitions, slowest first. */
function perRepetition(
  profile: Readonly<Record<string, number>>,
  { n, mean_s }: Timing,
): Record<string, number> {
  const { all: _, ...kinds } = profile,
    ms = Object.entries(kinds).map(([kind, ns]) => [kind, ns / n / 1e6] as const);
  const sorted = ms.sort((a, b) => b[1] - a[1]), total = ms.reduce((sum, [, t]) => sum + t, 0);
  return Object.fromEntries([...sorted, ["host", 1000 * mean_s - total]]);
}

function workOf(name: string, config: ModelConfig): Work {
  const generation = name.match(/^gen_b(\d+)_(greedy|sample)$/);
  if (generation) return generate(config, Number(generation[1]), generation[2] === "greedy" ? 0 : 1);
  if (name !== "train_step" && name !== "logprob") {
    throw new RangeError(`Cannot run case ${name}: there is none of that name`);
  }
  const { actor } = models({
    actor: policyModel("random", adamw({ lr: 1e-5, weightDecay: 0.01, decay: "all", clip: 0 })),
  });
  const { ref } = models({ ref: policyModel("random") });
  const data = conversations("random.jsonl", { batch: BATCH }),
    tokens = BATCH * LENGTH,
    forward = usefulFlops(config, tokens, LENGTH / 2);
  const train = name === "train_step";
  return {
    workflow: train
      ? workflow({ name, data, flow: actor.train(sft()) })
      : workflow({ name, data, flow: ref.infer() }),
    rows: sequenceRows(benchSequences(config, BATCH, LENGTH)),
    sizes: { sequences: BATCH, group: 1, longestPrompt: 0, longest: LENGTH, longestResponse: LENGTH - 1 },
    tokens,
    flops: train ? 3 * forward : forward,
    phases: train
      ? trainingPhases(config, BATCH, LENGTH, LENGTH)
      : [{ flops: forward, bytes: 0, workingSet: 0 }],
  };
}

function generate(config: ModelConfig, batch: number, temperature: number): Work {
  const { actor } = models({ actor: policyModel("random") }),
    sampling = { maxNewTokens: NEW_TOKENS, temperature, ignoreEos: true };
  const prefill = usefulFlops(config, batch * PROMPT, PROMPT / 2, batch);
  return {
    workflow: workflow({
      name: "generate",
      data: prompts("random.jsonl", { batch }),
      flow: actor.generate(sampling),
    }),
    rows: promptRows(benchSequences(config, batch, PROMPT)),
    sizes: {
      sequences: batch,
      group: 1,
      longestPrompt: PROMPT,
      longest: PROMPT + NEW_TOKENS,
      longestResponse: NEW_TOKENS,
    },
    tokens: batch * NEW_TOKENS,
    flops: prefill + usefulFlops(config, batch * (NEW_TOKENS - 1), PROMPT + NEW_TOKENS / 2),
    phases: rolloutPhases(config, { prompts: batch, group: 1, prompt: PROMPT, completion: NEW_TOKENS }),
  };
}
