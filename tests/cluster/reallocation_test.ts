/** Reallocations of a running workflow: copies, averages with a weight, models that lie in host memory between their calls. */
import assert from "node:assert/strict";
import type { Engine } from "../../engine/engine.ts";
import type { ReallocationReport } from "../../engine/reallocation.ts";
import { benchStage } from "../../bench/cases.ts";
import { batchOf } from "../../engine/batch.ts";
import { type Precision, storedIn } from "../../compiler/models/storage.ts";
import { Devices } from "../../engine/devices.ts";
import { storedAs, widened } from "../../engine/half.ts";
import { parsePlanFile } from "../../planner/plan_file.ts";
import { adamw, conversations, ema, models, policyModel, sft, type Workflow, workflow } from "../../mod.ts";
import { FAMILIES, type Family, sequencesOf } from "./layouts.ts";

const ETA = 0.25;

/** The reference follows the actor. */
function following(): Workflow {
  const { actor, ref } = models({
    actor: policyModel("random", adamw({ lr: 1e-3 })),
    ref: policyModel("random", ema("actor", { eta: ETA })),
  });
  return workflow({
    name: "following",
    data: conversations("random.jsonl", { batch: 12 }),
    flow: ref.infer().as("refLogprobs").then(actor.infer(), actor.train(sft())),
  });
}

type Calls = Readonly<Record<string, { readonly devices: string; readonly [option: string]: unknown }>>;

/** Runs steps and gives every parameter of every model after each. */
async function parametersAfter(
  family: Family,
  devices: number,
  calls: Calls,
  steps: number,
  precision: Precision,
) {
  const all = Devices.open({ count: devices, threads: 1, deadlineSeconds: 60 }), flow = following();
  const sizes = { sequences: 12, group: 1, longestPrompt: 0, longest: 30, longestResponse: 29 };
  const file = parsePlanFile({ calls, defaults: { microBatchTokens: 200 } }, "the test's plan");
  const stage = await benchStage(
    all,
    flow,
    { ...FAMILIES[family], ...(precision === "bf16" && { storage: storedIn(precision) }) },
    sizes,
    { devices, file },
  );
  const after: Record<string, Float32Array>[] = [];
  try {
    for (let step = 0; step < steps; step++) {
      const { reallocations } = await stage.step(step, batchOf(sequencesOf(family), 1));
      for (const { bytes, minimum } of reallocations) {
        assert.ok(bytes <= 1.05 * minimum, `${bytes} for ${minimum}`);
      }
      const { homes, models: loaded } = stage.engine, now: Record<string, Float32Array> = {};
      for (const [name, home] of homes) {
        for (const p of loaded[name]!.parameters) now[`${name} ${p.name}`] = home.read(p);
      }
      after.push(now);
      if (step === steps - 1) await checkJobs(stage.engine, reallocations);
    }
  } finally {
    stage.dispose();
    all[Symbol.dispose]();
    stage.engine.dispose();
  }
  return after;
}

/** What the timeline hears of, job by job, is what the report says of all. */
async function checkJobs(engine: Engine, reallocations: readonly ReallocationReport[]): Promise<void> {
  for (const { from, to, bytes } of reallocations) {
    let sum = 0;
    await engine.reallocator(from, to).run(1, (_job, _device, received) => sum += received);
    assert.equal(sum, bytes);
  }
}

const ONE: Calls = {
  "ref.infer": { devices: "0" },
  "actor.infer": { devices: "0" },
  "actor.train": { devices: "0" },
};

const PLANS: Readonly<Record<string, readonly [devices: number, calls: Calls]>> = {
  "apart": [2, { ...ONE, "ref.infer": { devices: "1" } }],
  "in stages": [4, {
    "ref.infer": { devices: "0-3", dp: 2, pp: 2 },
    "actor.infer": { devices: "0-1", dp: 2 },
    "actor.train": { devices: "2-3", pp: 2 },
  }],
  "offloaded": [2, {
    "ref.infer": { devices: "0-1", pp: 2, offload: true },
    "actor.infer": { devices: "0-1", dp: 2, offload: true },
    "actor.train": { devices: "0-1", dp: 2, zero: 1, offload: true },
  }],
};

/** Weights as programs read them: an average is of these, and not of their master copies. */
const read = (values: Float32Array, precision: Precision) =>
  widened(storedAs(values, storedIn(precision).weights));
/** Sums over data-parallel ranks have another order, which may turn a rounding of the weights around. */
const TOLERANCE = { fp32: 1e-5, bf16: 1e-3 };

for (const family of Object.keys(FAMILIES) as Family[]) {
  for (const precision of ["fp32", "bf16"] as const) {
    const alone = parametersAfter(family, 1, ONE, 3, precision);

    Deno.test(`the reference is the average of the actor's weights after each of its train calls (${family} in ${precision})`, async () => {
      let before: Record<string, Float32Array> | null = null;
      for (const now of await alone) {
        for (const [name, values] of Object.entries(now)) {
          if (!name.startsWith("ref ") || !before) continue;
          const actor = read(now[name.replace("ref ", "actor ")]!, precision), own = before[name]!;
          values.forEach((x, i) => {
            const expected = ETA * actor[i]! + (1 - ETA) * own[i]!;
            assert.ok(
              Math.abs(x - expected) <= 1e-6 * Math.max(1, Math.abs(expected)),
              `${name}[${i}] is ${x}, not ${expected}`,
            );
          });
        }
        before = now;
      }
    });

    for (const [name, [devices, calls]] of Object.entries(PLANS)) {
      Deno.test(`models ${name} get the weights that they get on one device (${family} in ${precision})`, async () => {
        const many = await parametersAfter(family, devices, calls, 3, precision);
        for (const [step, now] of (await alone).entries()) {
          for (const [parameter, values] of Object.entries(now)) {
            const other = many[step]![parameter]!;
            const error = Math.max(...values.map((x, i) => Math.abs(x - other[i]!)));
            assert.ok(error <= TOLERANCE[precision], `${parameter} of step ${step + 1} differs by ${error}`);
          }
        }
      });
    }
  }
}
