/** Adapters under every kind of plan: what they learn does not depend on it, the weights below never change, and a reference shares them. */
import assert from "node:assert/strict";
import { benchStage } from "../../bench/cases.ts";
import { layoutViolations } from "../../compiler/layout.ts";
import { batchOf } from "../../engine/batch.ts";
import { Devices } from "../../engine/devices.ts";
import { type ParallelStrategy, RECOMPUTE } from "../../ir/plan.ts";
import { adamw, conversations, lora, models, policyModel, sft, type Workflow, workflow } from "../../mod.ts";
import { parsePlanFile } from "../../planner/plan_file.ts";
import { largest, logprobs, relative } from "./compare.ts";
import {
  FAMILIES,
  type Family,
  layoutOf,
  type LayoutOptions,
  sequencesOf,
  stepOf,
  trainWorkflow,
} from "./layouts.ts";

const adapted = trainWorkflow(lora({ rank: 3, alpha: 5 })), whole = trainWorkflow();
const step = (family: Family, o: LayoutOptions) =>
  stepOf(adapted, family, layoutOf(adapted, o), sequencesOf(family));
const isPair = (name: string) => /\.lora_[AB]\.weight$/.test(name);

const STRATEGIES: readonly ParallelStrategy[] = [
  { dp: 2, tp: 1, pp: 1 },
  { dp: 1, tp: 2, pp: 1 },
  { dp: 1, tp: 3, pp: 1 },
  { dp: 1, tp: 4, pp: 1 },
  { dp: 1, tp: 6, pp: 1 },
  { dp: 1, tp: 1, pp: 3 },
  { dp: 3, tp: 1, pp: 2 },
  { dp: 2, tp: 2, pp: 2 },
];

for (const family of Object.keys(FAMILIES) as Family[]) {
  const alone = step(family, {});
  const legal = STRATEGIES.filter((s) => layoutViolations(FAMILIES[family], s).length === 0);
  for (const [i, strategy] of legal.entries()) {
    const { dp, tp, pp } = strategy, zero = (i % 2) as 0 | 1, recompute = RECOMPUTE[i % 4]!;
    const name = `${family} dp${dp} tp${tp} pp${pp}, zero ${zero}, recompute ${recompute}`;
    Deno.test(`an adapter learns the same: ${name}`, async () => {
      const one = await alone, many = await step(family, { strategy, microBatchTokens: 64, zero, recompute });
      const difference = largest(logprobs(many.batch), logprobs(one.batch));
      assert.ok(difference <= (tp === 1 ? 0 : 1e-5), `log-probabilities differ by ${difference}`);
      for (const [parameter, values] of many.parameters) {
        const error = relative(values, one.parameters.get(parameter)!),
          exact = dp * tp === 1 || !isPair(parameter);
        assert.ok(error <= (exact ? 0 : 1e-5), `${parameter} differs by ${error} after three updates`);
      }
    });
  }

  Deno.test(`an adapter alone changes when a model has one, all of it (${family})`, async () => {
    const after = (await alone).parameters;
    const calls = adapted.graph.calls.filter((c) => c.kind !== "train");
    const never = { ...adapted, graph: { ...adapted.graph, calls } };
    const before = (await stepOf(never, family, layoutOf(never, {}), sequencesOf(family))).parameters;
    assert.equal([...after.keys()].filter(isPair).length, 2 * 7 * FAMILIES[family].layers);
    for (const [name, values] of after) {
      const same = values.every((x, i) => x === before.get(name)![i]);
      assert.equal(same, !isPair(name), name);
    }
  });
}

/** A reference beside an actor that trains an adapter, or all of its weights. */
function referred(adapter?: ReturnType<typeof lora>): Workflow {
  const { actor, ref } = models({
    actor: policyModel("random", adamw({ lr: 1e-2 }), adapter),
    ref: policyModel("random"),
  });
  return workflow({
    name: "referred",
    data: conversations("random.jsonl", { batch: 12 }),
    flow: ref.infer().as("refLogprobs").then(actor.infer(), actor.train(sft())),
  });
}
type Calls = Readonly<Record<string, { readonly devices: string; readonly [option: string]: unknown }>>;

/** Log-probabilities of both models in three steps, and the bytes that parameters and optimizer have. */
async function stepsOf(flow: Workflow, devices: number, calls: Calls) {
  const all = Devices.open({ count: devices, threads: 1, deadlineSeconds: 60 });
  const sizes = { sequences: 12, group: 1, longestPrompt: 0, longest: 30, longestResponse: 29 };
  const file = parsePlanFile({ calls, defaults: { microBatchTokens: 200 } }, "the test's plan");
  const stage = await benchStage(all, flow, FAMILIES.llama, sizes, { devices, file });
  const actor: (readonly Float32Array[])[] = [], ref: (readonly Float32Array[])[] = [];
  try {
    const borrowed = stage.engine.home("ref").borrowed;
    for (let step = 0; step < 3; step++) {
      const batch = batchOf(sequencesOf("llama"), 1);
      await stage.step(step, batch);
      actor.push(logprobs(batch));
      ref.push(logprobs(batch, "refLogprobs"));
    }
    return { actor, ref, borrowed };
  } finally {
    stage.dispose();
    all[Symbol.dispose]();
    stage.engine.dispose();
  }
}

const at = (devices: string, layout = {}) => ({ devices, ...layout });
const PLANS: Readonly<Record<string, readonly [devices: number, shares: boolean, calls: Calls]>> = {
  "on one device": [1, true, { "ref.infer": at("0"), "actor.infer": at("0"), "actor.train": at("0") }],
  "cut alike": [4, true, {
    "ref.infer": at("0-3", { tp: 2, pp: 2 }),
    "actor.infer": at("0-3", { dp: 4 }),
    "actor.train": at("0-3", { tp: 2, pp: 2 }),
  }],
  "on some of the same devices": [2, true, {
    "ref.infer": at("0"),
    "actor.infer": at("1"),
    "actor.train": at("0-1", { dp: 2, zero: 1 }),
  }],
  "cut otherwise": [2, false, {
    "ref.infer": at("0-1", { pp: 2 }),
    "actor.infer": at("0-1", { tp: 2 }),
    "actor.train": at("0-1", { tp: 2 }),
  }],
  "elsewhere": [2, false, { "ref.infer": at("1"), "actor.infer": at("1"), "actor.train": at("0") }],
  "offloaded": [1, false, {
    "ref.infer": at("0"),
    "actor.infer": at("0", { offload: true }),
    "actor.train": at("0", { offload: true }),
  }],
};

const adapter = lora({ rank: 4, targets: ["q_proj", "down_proj"] });
const alone = stepsOf(
  referred(adapter),
  ...[PLANS["on one device"]![0], PLANS["on one device"]![2]] as const,
);
for (const [name, [devices, shares, calls]] of Object.entries(PLANS)) {
  Deno.test(`a reference ${shares ? "shares" : "does not share"} the weights of an actor that is ${name}`, async () => {
    const one = await alone, many = await stepsOf(referred(adapter), devices, calls);
    assert.equal(many.borrowed, shares);
    for (let step = 0; step < 3; step++) {
      assert.ok(largest(many.actor[step]!, one.actor[step]!) <= 1e-4);
      assert.ok(largest(many.ref[step]!, one.ref[0]!) <= 1e-5, "the reference is what it was");
    }
    // A new adapter changes nothing; a trained one does.
    assert.ok(largest(many.actor[0]!, many.ref[0]!) <= 1e-5);
    assert.ok(largest(many.actor[2]!, many.ref[2]!) > 1e-2);
  });
}

Deno.test("without an adapter a reference has weights of its own", async () => {
  const [devices, , calls] = PLANS["on one device"]!;
  assert.equal((await stepsOf(referred(), devices, calls)).borrowed, false);
  assert.ok(whole.graph.models["actor"]!.lora === undefined);
});
