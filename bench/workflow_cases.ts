/** Whole workflows: a step of PPO and of GRPO, and how long a script takes to its first step. */
import { batchOf } from "../engine/batch.ts";
import type { Devices } from "../engine/devices.ts";
import {
  adamw,
  dapo,
  gae,
  groupAdvantages,
  models,
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
import { benchConfig, benchSequences, benchStage, promptRows } from "./cases.ts";
import { floorSeconds, type Phase, rolloutPhases, trainingPhases } from "./floor.ts";
import { median, timed, type Timing } from "./measure.ts";
import type { CaseOptions } from "./model_cases.ts";

/** As many sequences as the peers' cases have, from prompts of as many tokens. */
const SEQUENCES = 32, PROMPT = 32, COMPLETION = 64, GROUP = 8;

/** The share of even token ids, for which no model is needed. */
const evenTokens = () =>
  score("rewards", { response: text }, ({ response }) => {
    const ids = [...response];
    return ids.filter((c) => c.codePointAt(0)! % 2 === 0).length / ids.length;
  });

export interface StepResult extends Timing {
  readonly s_per_step: number;
  readonly s_per_step_best: number;
  readonly samples_per_s: number;
  readonly completion_tokens_per_s: number;
  readonly sequences_per_step: number;
  readonly prompt: number;
  readonly completion: number;
  /** The least time that this machine allows, where it is known, and what part of the median it is. */
  readonly floor_s?: number;
  readonly of_floor?: number;
  /** Median seconds of each call. */
  readonly phase_s: Readonly<Record<string, number>>;
}

/** The peers' ppo_handwritten: actor, critic, reference, reward from plain code, four epochs over 32 responses of 64 tokens. */
export function ppoStep(devices: Devices, o: CaseOptions): Promise<StepResult> {
  const { actor, critic, ref } = models({
    actor: policyModel("random", adamw({ lr: 1e-5, clip: 0 })),
    critic: valueModel("random", adamw({ lr: 1e-5, clip: 0 })),
    ref: policyModel("random"),
  });
  const ppo = workflow({
    name: "ppo",
    data: prompts("random.jsonl", { batch: SEQUENCES }),
    flow: actor.generate({ maxNewTokens: COMPLETION, ignoreEos: true })
      .then(evenTokens(), ref.infer().as("refLogprobs"), critic.infer())
      .then(shapedRewards({ beta: 0.05 })).then(gae({ gamma: 1, lambda: 0.95, whiten: true }))
      .then(
        actor.train(ppoClip({ epsilon: 0.2 }), { epochs: 4 }),
        critic.train(valueClip({ epsilon: 0.2 }), { epochs: 4 }),
      ),
  });
  return stepOf(devices, ppo, 1, o);
}

/** The peers' trl_grpo: groups of eight, rewards from plain code, no reference, means over tokens, one update clipped to a norm of 1. */
export function grpoStep(devices: Devices, o: CaseOptions): Promise<StepResult> {
  const { actor } = models({ actor: policyModel("random", adamw({ lr: 1e-5, clip: 1 })) });
  const flow = workflow({
    name: "grpo",
    data: prompts("random.jsonl", { batch: SEQUENCES / GROUP }),
    flow: actor.generate({ samples: GROUP, maxNewTokens: COMPLETION, ignoreEos: true })
      .then(evenTokens()).then(groupAdvantages())
      .then(actor.train(dapo({ epsilon: 0.2, epsilonHigh: 0.2 }))),
  });
  const sizes = { prompts: SEQUENCES / GROUP, group: GROUP, prompt: PROMPT, completion: COMPLETION };
  const config = benchConfig(o.size);
  return stepOf(devices, flow, GROUP, o, [
    ...rolloutPhases(config, sizes),
    ...trainingPhases(config, SEQUENCES, PROMPT + COMPLETION, COMPLETION),
  ]);
}

async function stepOf(
  devices: Devices,
  flow: Workflow,
  group: number,
  o: CaseOptions,
  phases?: readonly Phase[],
): Promise<StepResult> {
  const config = benchConfig(o.size), rows = promptRows(benchSequences(config, SEQUENCES / group, PROMPT));
  const sizes = {
    sequences: SEQUENCES,
    group,
    longestPrompt: PROMPT,
    longest: PROMPT + COMPLETION,
    longestResponse: COMPLETION,
  };
  const stage = await benchStage(devices, flow, config, sizes, { strategy: o.strategy });
  const calls: Record<string, number[]> = {};
  let steps = 0;
  const timing = await timed(async () => {
    const { seconds } = await stage.step(steps++, batchOf(rows, group));
    for (const [call, s] of Object.entries(seconds)) (calls[call] ??= []).push(s);
  }, { ...o.limits, repetitions: Math.min(6, o.limits.repetitions) });
  stage.dispose();
  stage.engine.dispose();
  const floor = phases && o.rates && floorSeconds(phases, o.rates);
  return {
    ...timing,
    ...(floor !== undefined && { floor_s: floor, of_floor: floor / timing.median_s }),
    s_per_step: timing.median_s,
    s_per_step_best: timing.best_s,
    samples_per_s: SEQUENCES / timing.median_s,
    completion_tokens_per_s: SEQUENCES * COMPLETION / timing.median_s,
    sequences_per_step: SEQUENCES,
    prompt: PROMPT,
    completion: COMPLETION,
    phase_s: Object.fromEntries(
      Object.entries(calls).map(([call, s]) => [call, median(s.slice(o.limits.warm))]),
    ),
  };
}

export interface StartResult {
  /** From starting the process to the end of the first PPO step on the example's models; the library is built. */
  readonly median_s: number;
  readonly best_s: number;
  readonly n: number;
}

/** Runs bench/first_step.ts in fresh processes. */
export async function startToFirstStep(threads: number, repetitions: number): Promise<StartResult> {
  const script = new URL("first_step.ts", import.meta.url).pathname, seconds: number[] = [];
  for (let i = 0; i <= repetitions; i++) {
    const start = Date.now(), args = ["run", "-A", "--quiet", script, "--threads", String(threads)];
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args,
      stdout: "piped",
      stderr: "piped",
    }).output();
    const text = new TextDecoder();
    if (!success) throw new Error(`Cannot run ${script}: ${text.decode(stderr).trim()}`);
    // The first one fills Deno's cache of compiled modules.
    if (i > 0) seconds.push((Number(text.decode(stdout)) - start) / 1000);
  }
  return { median_s: median(seconds), best_s: Math.min(...seconds), n: repetitions };
}
