/** Checkpoints do not depend on the plan: written under one, resumed under ten others, bit for bit. */
import assert from "node:assert/strict";
import { type Storage, storedIn } from "../../compiler/models/storage.ts";
import type { Part } from "../../engine/replica.ts";
import { parsePlanFile } from "../../planner/plan_file.ts";
import {
  adamw,
  gae,
  models,
  policyModel,
  ppoClip,
  prompts,
  rewardModel,
  shapedRewards,
  valueClip,
  valueModel,
  type Workflow,
  workflow,
} from "../../mod.ts";
import { Session } from "../../run/session.ts";
import { withWorld } from "./fixtures.ts";

function ppo(world: string): Workflow {
  const { actor, critic, ref, reward } = models({
    actor: policyModel(`${world}/policy`, adamw({ lr: 1e-3 })),
    critic: valueModel(`${world}/policy`, adamw({ lr: 1e-3 })),
    ref: policyModel(`${world}/policy`),
    reward: rewardModel(`${world}/reward`),
  });
  return workflow({
    name: "plans",
    data: prompts(`${world}/prompts.jsonl`, { batch: 4 }),
    flow: actor.generate({ maxNewTokens: 12, samples: 2 })
      .then(reward.infer(), ref.infer().as("refLogprobs"), critic.infer())
      .then(shapedRewards({ beta: 0.1 })).then(gae({ gamma: 1, lambda: 0.95 }))
      .then(actor.train(ppoClip({ epsilon: 0.2 })), critic.train(valueClip())),
  });
}

type Layout = {
  readonly dp?: number;
  readonly tp?: number;
  readonly pp?: number;
  readonly zero?: 0 | 1;
  readonly offload?: boolean;
};

/** Actor and critic trained under two layouts, everything else on the first device, or with the actor. */
function machine(devices: number, actor: Layout, critic: Layout, from = 0) {
  const size = ({ dp = 1, tp = 1, pp = 1 }: Layout) => dp * tp * pp;
  const at = (layout: Layout, first: number) => ({
    devices: `${first}-${first + size(layout) - 1}`,
    ...layout,
  });
  const { zero: _, ...inferring } = at(critic, from);
  const calls = {
    "actor.generate": { devices: `0-${devices - 1}`, dp: devices, ...(actor.offload && { offload: true }) },
    "reward.infer": { devices: "0" },
    "ref.infer": { devices: "0" },
    "critic.infer": inferring,
    "actor.train": at(actor, 0),
    "critic.train": at(critic, from),
  };
  return {
    devices: { nodes: 1, perNode: devices },
    threads: 1,
    memoryBytes: Infinity,
    planFile: parsePlanFile({ calls }, "the test's plan"),
  };
}

type Machine = ReturnType<typeof machine> & { readonly storage?: Storage };
const open = (flow: Workflow, machine: Machine) =>
  Session.open(flow, { steps: 10, seed: 1, machine, toolSeconds: 10, scorers: () => new Map() });

const WRITTEN = machine(4, { dp: 2, tp: 2, zero: 1 }, { dp: 2, pp: 2 });
const PLANS: readonly Machine[] = [
  machine(1, {}, {}),
  machine(2, { dp: 2 }, { dp: 2, zero: 1 }),
  machine(2, { tp: 2 }, { pp: 2 }),
  machine(2, { pp: 2 }, { tp: 2 }),
  machine(4, { dp: 4, zero: 1 }, { dp: 2, tp: 2 }),
  machine(4, { dp: 2, pp: 2, zero: 1 }, { tp: 2, pp: 2 }),
  machine(4, { tp: 2, pp: 2 }, { dp: 4 }),
  machine(4, { dp: 2 }, { dp: 2 }, 2),
  machine(8, { dp: 2, tp: 2, pp: 2, zero: 1 }, { dp: 3, pp: 2, zero: 1 }, 2),
  machine(2, { dp: 2, zero: 1, offload: true }, { tp: 2 }),
];

/** Parameters and moments of everything that is trained. */
function weights({ engine }: Session): Record<string, Float32Array> {
  const all: Record<string, Float32Array> = {};
  for (const [name, home] of engine.homes) {
    const parts: readonly Part[] = home.trained ? ["param", "m", "v"] : [];
    for (const part of parts) {
      for (const p of engine.models[name]!.parameters) all[`${name}.${part} ${p.name}`] = home.read(p, part);
    }
  }
  return all;
}

/** How far a step may be from that of another plan: partial sums of tensor parallelism are rounded in bf16. */
const TOLERANCE = { fp32: 1e-4, bf16: 0.05 };

for (const precision of ["fp32", "bf16"] as const) {
  Deno.test(`a checkpoint written under one plan in ${precision} is resumed under ten others`, async () => {
    await withWorld(async (world) => {
      const storage = storedIn(precision, precision);
      const flow = ppo(world), writer = await open(flow, { ...WRITTEN, storage });
      try {
        for (let step = 0; step < 2; step++) await writer.step({});
        const path = await writer.save(`${world}/checkpoints`), written = weights(writer);
        assert.ok(
          Object.entries(written).some(([name, v]) => name.startsWith("actor.m") && v.some((x) => x !== 0)),
        );
        const { metrics } = (await writer.step({})).result;
        for (const [i, plan] of PLANS.entries()) {
          // Half of the readers have their weights in rows, as devices on GPUs have.
          const layout = i % 2 ? "rows" : "panels";
          const reader = await open(flow, { ...plan, storage: { ...storage, layout } });
          try {
            await reader.resume(path);
            for (const [name, values] of Object.entries(weights(reader))) {
              assert.deepEqual(values, written[name], `${name} under plan ${i}`);
            }
            const next = (await reader.step({})).result.metrics;
            for (const name of ["actor/loss", "critic/loss", "actor/gradientNorm", "critic/gradientNorm"]) {
              const [value, other] = [metrics[name]!, next[name]!], error = Math.abs(value - other);
              assert.ok(
                error <= TOLERANCE[precision] * Math.max(1, Math.abs(value)),
                `${name} under plan ${i}: ${other}, not ${value}`,
              );
            }
          } finally {
            reader.dispose();
          }
        }
      } finally {
        writer.dispose();
      }
    });
  });
}
