import assert from "node:assert/strict";
import * as fc from "fast-check";
import {
  compute,
  models,
  perSequence,
  policyModel,
  prompts,
  rewardModel,
  score,
  text,
  workflow,
} from "../../dsl/mod.ts";
import type { AnyFlow } from "../../dsl/flow.ts";
import { chain, ppo, randomStages } from "./dsl_fixtures.ts";

const { actor, ref, reward } = models({
  actor: policyModel("models/base"),
  ref: policyModel("models/base"),
  reward: rewardModel("models/reward"),
});
const rollout = actor.generate();
const data = prompts("p.jsonl", { batch: 2 });
const ids = (flow: AnyFlow): string[] =>
  workflow({ name: "w", data, flow: flow as never }).graph.calls.map((c) => c.id);

Deno.test("two uses of one call get ids of their own", () => {
  const twice = rollout.then(ref.infer().as("a"), ref.infer().as("b")).then(ref.infer().as("c"));
  assert.deepEqual(ids(twice), ["actor.generate", "ref.infer", "ref.infer#2", "ref.infer#3"]);
});

Deno.test("named() gives a call its own id, which must be unique", () => {
  const flow = rollout.then(ref.infer().as("a"), ref.infer().as("b").named("reference"));
  assert.deepEqual(ids(flow), ["actor.generate", "ref.infer", "reference"]);
  const taken = rollout.then(ref.infer().as("a"), ref.infer().as("b").named("ref.infer"));
  assert.deepEqual(ids(taken), ["actor.generate", "ref.infer#2", "ref.infer"]);
  assert.throws(
    () => ids(rollout.then(ref.infer().as("a").named("x"), ref.infer().as("b").named("x"))),
    /Cannot name two calls "x": x \(dsl_flow_test\.ts:\d+\) and x \(dsl_flow_test\.ts:\d+\), choose another \.named\(\)/,
  );
  assert.throws(() => ref.infer().named("a b"), /Cannot name a call "a b"/);
});

Deno.test("a renamed call is another call, the same object is one", () => {
  const scored = rollout.then(reward.infer());
  assert.deepEqual(ids(scored.then(rollout.then(ref.infer().as("a")))), [
    "actor.generate",
    "reward.infer",
    "ref.infer",
  ]);
  assert.equal(rollout.then(ref.infer().as("a"), ref.infer().as("b")).drafts.length, 3);
});

Deno.test("as() renames ports and moves per-token values to the renamed token field", () => {
  const greedy = rollout.as({ tokens: "t", logprobs: "l", length: "n" });
  const [draft] = greedy.drafts;
  assert.deepEqual(draft!.call.writes, { tokens: "t", logprobs: "l", length: "n" });
  assert.deepEqual(greedy.writes.l, { per: "token", dtype: "f32", of: "t" });
  assert.deepEqual(Object.keys(greedy.writes), ["t", "l", "n"]);
  const again = greedy.as({ t: "u", l: "k" });
  assert.deepEqual(again.drafts[0]!.call.writes, { tokens: "u", logprobs: "k" });
  assert.deepEqual(again.writes.k.of, "u");
  assert.deepEqual(rollout.drafts[0]!.call.writes.tokens, "tokens");
});

Deno.test("as() refuses two fields of one name", () => {
  assert.throws(
    () => rollout.as({ tokens: "x", length: "x" }),
    /Cannot rename actor\.generate \(.*\): two of its fields would be called "x"/,
  );
  assert.throws(
    () => reward.infer().as("not a name"),
    /Cannot name a field "not a name": use letters, digits and _/,
  );
});

Deno.test("infer({ from }) reads another token field", () => {
  const flow = ref.infer({ from: "greedyTokens", entropy: true });
  assert.deepEqual(flow.drafts[0]!.call.reads, { tokens: "greedyTokens" });
  assert.deepEqual(flow.writes, {
    logprobs: { per: "token", dtype: "f32", of: "greedyTokens" },
    entropy: { per: "token", dtype: "f32", of: "greedyTokens" },
  });
});

Deno.test("from() changes what a call reads under the same ports", () => {
  const flow = compute("c", { x: perSequence, y: perSequence }, ({ x, y }) => ({ z: x.sub(y) })).from({
    y: "rewards",
  });
  const call = flow.drafts[0]!.call;
  assert.ok(call.kind === "compute");
  assert.deepEqual(call.reads, { x: "x", y: "rewards" });
  assert.deepEqual(call.expr.ops.flatMap((op) => op.op === "input" ? [op.field] : []), ["x", "rewards"]);
  assert.throws(() => flow.from({ x: "rewards" }), /two of its fields would be called "rewards"/);
  const sample = score("s", { response: text }, () => 0).from({ response: "greedyText" });
  assert.deepEqual(sample.drafts[0]!.call.reads, { response: "greedyText" });
});

Deno.test("calls remember the line of the script", () => {
  const [draft] = actor.generate().drafts;
  assert.match(draft!.call.site ?? "", /^dsl_flow_test\.ts:\d+$/);
  const lines = ppo().graph.calls.map((c) => c.site?.split(":")[0]);
  assert.deepEqual([...new Set(lines)], ["dsl_fixtures.ts"]);
});

Deno.test("a flow shows its calls in a terminal and in a notebook", async () => {
  const flow = rollout.then(reward.infer());
  assert.match(
    Deno.inspect(flow),
    /^flow: reads prompt\n[\s\S]*actor\.generate {2}prompt → tokens response logprobs length finished/,
  );
  const display = Symbol.for("Jupyter.display");
  const shown = await (flow as unknown as Record<symbol, () => Promise<Record<string, string>>>)[display]!();
  assert.equal(shown["text/plain"], String(flow));
  const svg = shown["image/svg+xml"]!,
    texts = [...svg.matchAll(/<text [^>]*>([^<]*)<\/text>/g)].map((m) => m[1]);
  assert.match(svg, /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg" width="\d+" height="\d+"/);
  assert.deepEqual(texts.toSorted(), ["actor.generate", "data", "prompt", "reward.infer", "tokens"]);
  const w = workflow({ name: "w", data, flow });
  assert.match(Deno.inspect(w), /^w: 2 prompts per step from p\.jsonl/);
  assert.ok((w as unknown as Record<symbol, unknown>)[Symbol.for("Jupyter.display")]);
});

Deno.test("the order of siblings never changes fields, edges or ids of distinct calls", () => {
  fc.assert(
    fc.property(randomStages, fc.infiniteStream(fc.nat()), (stages, keys) => {
      const draw = keys[Symbol.iterator]();
      const straight = chain(stages).graph;
      const shuffled = chain(stages, (stage) => {
        const ranked = stage.map((flow) => ({ flow, rank: draw.next().value as number }));
        return ranked.sort((a, b) => a.rank - b.rank).map(({ flow }) => flow);
      }).graph;
      assert.deepEqual(shuffled.fields, straight.fields);
      const byId = (calls: typeof straight.calls) => Object.fromEntries(calls.map((c) => [c.id, c]));
      assert.deepEqual(byId(shuffled.calls), byId(straight.calls));
    }),
    { numRuns: 60 },
  );
});
