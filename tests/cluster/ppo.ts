/** PPO with actor, critic, reference and a reward from plain code, on virtual devices under any plan. */
import { RECOMPUTE } from "../../ir/plan.ts";
import { benchStage } from "../../bench/cases.ts";
import { layoutViolations } from "../../compiler/layout.ts";
import { type Batch, batchOf } from "../../engine/batch.ts";
import { Devices } from "../../engine/devices.ts";
import type { Sample } from "../../engine/sample.ts";
import type { Stage } from "../../engine/stage.ts";
import type { Timeline } from "../../engine/timeline.ts";
import { parsePlanFile, type PlanFile } from "../../planner/plan_file.ts";
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
  type Workflow,
  workflow,
} from "../../mod.ts";
import { FAMILIES, promptsOf } from "./layouts.ts";

const CONFIG = FAMILIES.llama, PROMPTS = 8, SAMPLES = 1, NEW_TOKENS = 10;
export const CALLS = ["actor.generate", "ref.infer", "critic.infer", "actor.train", "critic.train"] as const;

/** @param maxLag versions that generation may be behind */
export function ppoWorkflow(maxLag = 0): Workflow {
  const { actor, critic, ref } = models({
    actor: policyModel("random", adamw({ lr: 2e-3 })),
    critic: valueModel("random", adamw({ lr: 2e-3 })),
    ref: policyModel("random"),
  });
  const even = score("rewards", { response: text }, ({ response }) => {
    const ids = [...response];
    return ids.filter((c) => c.codePointAt(0)! % 2 === 0).length / ids.length;
  });
  const rollout = actor.generate({ maxNewTokens: NEW_TOKENS, samples: SAMPLES, ignoreEos: true, maxLag });
  return workflow({
    name: "ppo",
    data: prompts("random.jsonl", { batch: PROMPTS }),
    flow: rollout.then(even, ref.infer().as("refLogprobs"), critic.infer())
      .then(shapedRewards({ beta: 0.05 })).then(gae({ gamma: 1, lambda: 0.95, whiten: true }))
      .then(
        actor.train(ppoClip({ epsilon: 0.2 }), { minibatches: 2 }),
        critic.train(valueClip({ epsilon: 0.2 }), { minibatches: 2 }),
      ),
  });
}

/** The same workflow on rollouts that it is given. */
export function replayWorkflow(): Workflow {
  const ppo = ppoWorkflow(),
    { graph } = ppo,
    made = ["tokens", "response", "logprobs", "length", "finished", "rewards"];
  const fields = Object.fromEntries(made.map((name) => [name, graph.fields[name]!]));
  return {
    ...ppo,
    graph: {
      ...graph,
      source: { ...graph.source, fields: { ...graph.source.fields, ...fields } },
      calls: graph.calls.filter((c) => c.kind !== "generate" && c.kind !== "score"),
    },
  };
}

/** A plan of one device, or of a layout for every call, on 8. */
export interface PpoPlan {
  readonly devices: number;
  readonly file: PlanFile;
}
type Calls = Readonly<Record<string, { readonly devices: string; readonly [option: string]: unknown }>>;

export const planOf = (devices: number, calls: Calls): PpoPlan => ({
  devices,
  file: parsePlanFile({ calls }, "the test's plan"),
});
export const ONE: PpoPlan = planOf(1, Object.fromEntries(CALLS.map((id) => [id, { devices: "0" }])));

/** Every call on devices and with a strategy of its own, drawn from a counter. */
export function randomPlan(seed: number, o: { readonly tp: boolean }): PpoPlan {
  let state = Math.imul(seed + 1, 2654435761) >>> 0;
  const below = (n: number) => {
    state = Math.imul(state, 1664525) + 1013904223 >>> 0;
    return (state >>> 8) % n;
  };
  const calls = CALLS.map((id) => {
    const size = [1, 2, 4, 8][below(4)]!, first = size * below(8 / size);
    const legal = [1, 2, 4].flatMap((tp) =>
      [1, 2, 3, 4].flatMap((pp) => {
        const cut = layoutViolations(CONFIG, { tp, pp }).length > 0 || (!o.tp && tp > 1);
        return cut || size % (tp * pp) ? [] : [{ dp: size / (tp * pp), tp, pp }];
      })
    );
    return [id, {
      devices: `${first}-${first + size - 1}`,
      ...legal[below(legal.length)]!,
      microBatchTokens: 40 + 20 * below(4),
      ...(id.endsWith("train") && { zero: below(2), recompute: RECOMPUTE[below(4)]! }),
    }] as const;
  });
  return planOf(8, Object.fromEntries(calls));
}

export interface Opened {
  readonly stage: Stage;
  readonly devices: Devices;
  readonly close: () => void;
}

/** The workflow on virtual devices with random weights. */
export async function openPpo(
  flow: Workflow,
  plan: PpoPlan,
  { deadlineSeconds = 60, timeline, overlap }: {
    readonly deadlineSeconds?: number;
    readonly timeline?: Timeline;
    readonly overlap?: { readonly bytes: number };
  } = {},
): Promise<Opened> {
  const devices = Devices.open({ count: plan.devices, threads: 1, deadlineSeconds });
  const longestPrompt = Math.max(...rows().map((r) => r.prompt!.ids.length)),
    longest = longestPrompt + NEW_TOKENS;
  const sizes = {
    sequences: PROMPTS * SAMPLES,
    group: SAMPLES,
    longestPrompt,
    longest,
    longestResponse: NEW_TOKENS,
  };
  const ids = new Set(flow.graph.calls.map((c) => c.id));
  const calls = Object.fromEntries(Object.entries(plan.file.calls).filter(([id]) => ids.has(id)));
  const stage = await benchStage(devices, flow, CONFIG, sizes, {
    ...plan,
    file: { ...plan.file, calls },
    ...(timeline && { timeline }),
    ...(overlap && { overlap }),
  });
  return {
    stage,
    devices,
    close() {
      stage.dispose();
      devices[Symbol.dispose]();
      stage.engine.dispose();
    },
  };
}

export const rows = (): readonly Sample[] => promptsOf("llama");
export const emptyBatch = (): Batch => batchOf(rows(), SAMPLES);
/** A batch that begins with what another one was sampled. */
export function replayed(recorded: Batch): Batch {
  const batch = emptyBatch();
  batch.tokens.set("tokens", {
    ...recorded.tokensOf("tokens"),
    versions: recorded.tokensOf("tokens").versions,
  });
  batch.texts.set("response", recorded.texts.get("response")!);
  for (const name of ["logprobs", "length", "finished", "rewards"]) {
    batch.numbers.set(name, recorded.numbersOf(name));
  }
  return batch;
}
