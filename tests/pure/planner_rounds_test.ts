/** Schedules of graphs whose batch changes within a step: rounds in order, selections behind and before everything they change. */
import assert from "node:assert/strict";
import {
  adamw,
  compute,
  dpo,
  groupAdvantages,
  grpo,
  models,
  perSequence,
  policyModel,
  prompts,
  refill,
  rewardModel,
  select,
  workflow,
} from "../../dsl/mod.ts";
import { digest } from "../../ir/digest.ts";
import type { CallGraph } from "../../ir/graph.ts";
import type { Assignment, Instruction } from "../../ir/plan.ts";
import { schedulesOf } from "../../planner/schedule.ts";

const { actor, ref, reward } = models({
  actor: policyModel("m", adamw({ lr: 1e-3 })),
  ref: policyModel("m"),
  reward: rewardModel("r"),
});
const data = prompts("p.jsonl", { batch: 8 });

/** Generation on devices of its own. */
function stepOf(graph: CallGraph): readonly Instruction[] {
  const on = (device: number): Assignment => ({
    mesh: { node: 0, nodes: 1, device, devices: 1 },
    strategy: { dp: 1, tp: 1, pp: 1 },
    microBatchTokens: 64,
    zero: 0,
    recompute: "nothing",
    offload: false,
  });
  const calls = graph.calls.filter((c) => "model" in c);
  const plan = {
    version: 1,
    graph: digest(graph),
    cluster: { nodes: 1, devicesPerNode: 3, memoryBytes: 2 ** 30, links: [] },
    assignments: Object.fromEntries(
      calls.map((c) => [c.id, on(c.kind === "generate" ? 0 : c.kind === "train" ? 1 : 2)]),
    ),
  } as const;
  return schedulesOf([{ graph, plan }])[0]!.step;
}
const show = (a: Instruction) => a.op === "run" ? a.call : a.op;
/** Whether an instruction waits for another one of its step. */
const waits = (step: readonly Instruction[], at: number, on: number): boolean =>
  step[at]!.after.some((j) => j === on || waits(step, j, on));

Deno.test("a refill's rounds follow each other, and the weights of the next step come behind the last", () => {
  const informative = compute("informative", { rewards: perSequence }, ({ rewards }) => ({
    informative: rewards.groupStd(),
  }));
  for (const maxLag of [0, 1]) {
    const rollout = actor.generate({ samples: 4, maxLag }).then(reward.infer()).then(informative);
    const flow = refill(rollout, { until: "informative", maxRounds: 3 })
      .then(groupAdvantages()).then(actor.train(grpo({ epsilon: 0.2 })));
    const step = stepOf(workflow({ name: "rounds", data, flow }).graph), shown = step.map(show);
    const round = ["actor.generate", "reward.infer", "informative", "refill"];
    const moved = ["reallocate"], runs = shown.filter((s) => !["reallocate", "free"].includes(s));
    assert.deepEqual(runs, [...round, ...round, ...round, "groupAdvantages", "actor.train"]);
    assert.deepEqual(shown.filter((s) => s === "reallocate"), moved, "once a step");
    const generates = step.flatMap((a, i) => show(a) === "actor.generate" ? [i] : []);
    if (maxLag) assert.ok(shown.indexOf("reallocate") > generates.at(-1)!);
    else assert.ok(shown.indexOf("reallocate") < generates[0]!);
    for (let i = 1; i < runs.length; i++) {
      const at = (k: number) =>
        step.findIndex((a, j) =>
          show(a) !== "reallocate" && show(a) !== "free" &&
          step.slice(0, j + 1).filter((b) => !["reallocate", "free"].includes(show(b))).length === k + 1
        );
      assert.ok(waits(step, at(i), at(i - 1)), `${runs[i]} waits for ${runs[i - 1]}`);
    }
  }
});

Deno.test("a selection waits for everything that reads or writes what it narrows, and what comes later waits for it", () => {
  const early = compute("early", { length: perSequence }, ({ length }) => ({ early: length.mul(2) }));
  const flow = actor.generate({ samples: 4 }).then(reward.infer(), early)
    .then(select({ by: "rewards", keep: "bestAndWorst" }))
    .then(ref.infer().as("refLogprobs")).then(actor.train(dpo({ beta: 0.1 })));
  const step = stepOf(workflow({ name: "pairs", data, flow }).graph), shown = step.map(show);
  const at = shown.indexOf("select");
  for (const before of ["actor.generate", "reward.infer", "early"]) {
    assert.ok(waits(step, at, shown.indexOf(before)), `select waits for ${before}`);
  }
  for (const later of ["ref.infer", "actor.train"]) {
    assert.ok(waits(step, shown.indexOf(later), at), `${later} waits for select`);
  }
});
