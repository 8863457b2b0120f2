/** Whole workflows: how long a script takes to become programs, and a step of PPO. */
import { batchOf } from "../engine/batch.ts";
import type { Devices } from "../engine/devices.ts";
import {
  adamw,
  gae,
  models,
  policyModel,
  ppoClip,
  prompts,
  score,
  shapedRewards,
  text,
  valueClip,
  valueModel,
  workflow,
} from "../mod.ts";
import { benchConfig, benchSequences, benchStage, promptRows } from "./cases.ts";
import { median, timed, type Timing } from "./measure.ts";
import type { CaseOptions } from "./model_cases.ts";

export interface PpoResult extends Timing {
  readonly s_per_step: number;
  readonly s_per_step_best: number;
  readonly samples_per_s: number;
  readonly completion_tokens_per_s: number;
  readonly sequences_per_step: number;
  readonly prompt: number;
  readonly completion: number;
  readonly ppo_epochs: number;
  /** Median seconds of each call. */
  readonly phase_s: Readonly<Record<string, number>>;
}

/** The peers' ppo_handwritten: actor, critic, reference, reward from plain code, four epochs over 32 responses of 64 tokens. */
export async function ppoStep(devices: Devices, o: CaseOptions): Promise<PpoResult> {
  const batch = 32, prompt = 32, completion = 64, epochs = 4, config = benchConfig(o.size);
  const { actor, critic, ref } = models({
    actor: policyModel("random", adamw({ lr: 1e-5, clip: 0 })),
    critic: valueModel("random", adamw({ lr: 1e-5, clip: 0 })),
    ref: policyModel("random"),
  });
  const even = score("rewards", { response: text }, ({ response }) => {
    const ids = [...response];
    return ids.filter((c) => c.codePointAt(0)! % 2 === 0).length / ids.length;
  });
  const ppo = workflow({
    name: "ppo",
    data: prompts("random.jsonl", { batch }),
    flow: actor.generate({ maxNewTokens: completion, ignoreEos: true })
      .then(even, ref.infer().as("refLogprobs"), critic.infer())
      .then(shapedRewards({ beta: 0.05 })).then(gae({ gamma: 1, lambda: 0.95, whiten: true }))
      .then(
        actor.train(ppoClip({ epsilon: 0.2 }), { epochs }),
        critic.train(valueClip({ epsilon: 0.2 }), { epochs }),
      ),
  });
  const sizes = {
    sequences: batch,
    group: 1,
    longestPrompt: prompt,
    longest: prompt + completion,
    longestResponse: completion,
  };
  const stage = await benchStage(devices, ppo, config, sizes, { strategy: o.strategy }),
    rows = promptRows(benchSequences(config, batch, prompt));
  const phases: Record<string, number[]> = {};
  let steps = 0;
  const timing = await timed(async () => {
    const { seconds } = await stage.step(steps++, batchOf(rows, 1));
    for (const [call, s] of Object.entries(seconds)) (phases[call] ??= []).push(s);
  }, { ...o.limits, repetitions: Math.min(6, o.limits.repetitions) });
  stage.dispose();
  stage.engine.dispose();
  return {
    ...timing,
    s_per_step: timing.median_s,
    s_per_step_best: timing.best_s,
    samples_per_s: batch / timing.median_s,
    completion_tokens_per_s: batch * completion / timing.median_s,
    sequences_per_step: batch,
    prompt,
    completion,
    ppo_epochs: epochs,
    phase_s: Object.fromEntries(
      Object.entries(phases).map(([call, s]) => [call, median(s.slice(o.limits.warm))]),
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
