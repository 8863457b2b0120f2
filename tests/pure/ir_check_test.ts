/** Every rule of the specifications is broken once, and named. */
import assert from "node:assert/strict";
import { checkGraph, graphViolations } from "../../ir/check.ts";
import { checkPlan, planViolations } from "../../ir/check_plan.ts";
import { digest } from "../../ir/digest.ts";
import { exprViolations } from "../../ir/expr_rules.ts";
import type { CallGraph } from "../../ir/graph.ts";
import type { Assignment, ExecutionPlan } from "../../ir/plan.ts";
import { ppo, rewardModelling } from "./dsl_fixtures.ts";

// deno-lint-ignore no-explicit-any -- the tests break values that their types protect
type Broken = any;
/** A copy with something broken in it. */
function broken<T>(value: T, how: (copy: Broken) => void): T {
  const copy = structuredClone(value);
  how(copy);
  return copy;
}
const callOf = (graph: Broken, id: string): Broken => graph.calls.find((c: { id: string }) => c.id === id);

Deno.test("checkGraph() accepts what the language makes", () => {
  for (const w of [ppo(), rewardModelling()]) assert.deepEqual(graphViolations(w.graph), []);
  checkGraph(ppo().evaluation!.graph);
});

const ADAPTER = { rank: 4, alpha: 8, targets: ["q_proj"] };

const BREAKS: readonly (readonly [string, (graph: Broken) => void, RegExp])[] = [
  [
    "an adapter of a frozen model",
    (g) => g.models.ref.lora = ADAPTER,
    /"ref" has an adapter and is not trained/,
  ],
  [
    "an adapter of no rank",
    (g) => g.models.actor.lora = { ...ADAPTER, rank: 0 },
    /"actor" has an adapter of rank 0, alpha 8, for q_proj/,
  ],
  [
    "following an adapter",
    (g) => (g.models.actor.lora = ADAPTER, g.models.ref.ema = { of: "actor", eta: 0.5 }),
    /"ref" follows "actor", of which an adapter is trained alone/,
  ],
  ["no calls", (g) => (g.calls = [], g.fields = { ...g.source.fields }), /it has no calls/],
  ["an id twice", (g) => callOf(g, "ref.infer").id = "reward.infer", /reward\.infer appears twice/],
  ["reading too early", (g) => g.calls.reverse(), /gae reads "tokenRewards" before it is written/],
  [
    "writing twice",
    (g) => callOf(g, "ref.infer").writes.logprobs = "logprobs",
    /ref\.infer writes "logprobs", which already exists/,
  ],
  [
    "a field without a type",
    (g) => delete g.fields.values,
    /critic\.infer writes "values", which has no type/,
  ],
  [
    "a type without a field",
    (g) => g.fields.extra = { per: "batch", dtype: "f32" },
    /field "extra" is written by nothing/,
  ],
  [
    "a data field of another type",
    (g) => g.source.fields = { prompt: { per: "sequence", dtype: "f32" } },
    /data field "prompt" has another type in fields/,
  ],
  [
    "values of no token field",
    (g) => delete g.fields.values.of,
    /field "values" per token belongs to no token field/,
  ],
  [
    "values of a missing token field",
    (g) => g.fields.values.of = "other",
    /field "values" per token belongs to "other", which is no token field/,
  ],
  [
    "of on a sequence",
    (g) => g.fields.rewards.of = "tokens",
    /field "rewards" per sequence belongs to "tokens"/,
  ],
  ["an unknown model", (g) => delete g.models.ref, /ref\.infer runs model "ref", which is not declared/],
  [
    "a critic that generates",
    (g) => g.models.actor.head = "value",
    /actor\.generate generates with a value model/,
  ],
  [
    "training a frozen model",
    (g) => g.models.actor.optimizer = null,
    /actor\.train trains "actor", which has no optimizer/,
  ],
  [
    "a port that the head lacks",
    (g) => callOf(g, "ref.infer").writes = { values: "refLogprobs" },
    /ref\.infer writes port values/,
  ],
  ["no tokens to infer", (g) => callOf(g, "ref.infer").reads = {}, /ref\.infer reads no token field/],
  [
    "tokens that are none",
    (g) => callOf(g, "ref.infer").reads.tokens = "rewards",
    /ref\.infer reads "rewards" as tokens/,
  ],
  [
    "logprobs without tokens",
    (g) => delete callOf(g, "actor.generate").writes.tokens,
    /actor\.generate writes "logprobs" without its token field/,
  ],
  [
    "an input of no field",
    (g) => delete callOf(g, "gae").reads.values,
    /gae uses "values" without reading it/,
  ],
  [
    "an input of another kind",
    (g) => g.fields.values.per = "sequence",
    /gae reads "values" as a number per token, and it is f32 per sequence/,
  ],
  [
    "no tokens for a compute",
    (g) => delete callOf(g, "gae").reads.tokens,
    /gae works per token and reads no token field/,
  ],
  [
    "a result of another kind",
    (g) => g.fields.returns = { per: "batch", dtype: "f32" },
    /gae writes "returns" as a number per token/,
  ],
  [
    "an output that is not made",
    (g) => delete callOf(g, "gae").expr.outputs.returns,
    /gae writes "returns", which its expression does not make/,
  ],
  [
    "an undeclared state",
    (g) => g.states = {},
    /adaptiveKl writes state "klCoefficient", which is not declared.*adaptiveKl reads state/s,
  ],
  ["a state without a start", (g) => g.states.klCoefficient = NaN, /state "klCoefficient" starts at NaN/],
  ["a state named as a field", (g) => g.states.rewards = 0, /"rewards" is a field and a state/],
  [
    "a loss that is no number",
    (g) => callOf(g, "actor.train").loss.outputs.loss = 0,
    /actor\.train has a loss that is not valid: "loss" is a value per token/,
  ],
  [
    "a malformed loss",
    (g) => callOf(g, "actor.train").loss.ops.find((o: { op: string }) => o.op === "sub").args[0] = 99,
    /actor\.train operation \d+ \(sub\) reads operation 99/,
  ],
  [
    "stopping on no metric",
    (g) => callOf(g, "actor.train").stopWhen = "x",
    /actor\.train stops when "x", which is no metric of its loss/,
  ],
  [
    "pairs of prompts",
    (g) => g.source.kind = "prompts",
    /reward\.train splits pairs, and the data are prompts/,
  ],
  ["no samples", (g) => callOf(g, "actor.generate").sampling.samples = 0, /actor\.generate has samples 0/],
  ["no mini-batches", (g) => callOf(g, "actor.train").minibatches = 0, /actor\.train has minibatches 0/],
  ["an empty batch", (g) => g.source.batch = 0, /its data set has batch 0/],
  [
    "a loss of what the model does not make",
    (g) => g.models.actor.head = "reward",
    /actor\.train has a loss of "logprobs", which its model does not make/,
  ],
];
for (const [what, how, message] of BREAKS) {
  Deno.test(`checkGraph() refuses ${what}`, () => {
    const { graph } = what === "pairs of prompts" ? rewardModelling() : ppo();
    const found = graphViolations(broken(graph, how)).join("; ");
    assert.match(found, message);
    assert.throws(() => checkGraph(broken(graph, how)), {
      name: "TypeError",
      message: `Cannot use graph "${graph.name}": ${found}`,
    });
  });
}

Deno.test("checkGraph() lists every violation", () => {
  const found = graphViolations(broken(ppo().graph, (g) => {
    g.states.klCoefficient = NaN;
    callOf(g, "actor.train").stopWhen = "x";
    delete g.fields.values.of;
  }));
  assert.ok(found.length >= 3, found.join("\n"));
});

Deno.test("exprViolations() holds every operation to its rule", () => {
  const token = { op: "input", field: "x", from: "batch", per: "token" },
    sequence = { ...token, field: "s", per: "sequence" };
  const cases: readonly (readonly [object, RegExp | null])[] = [
    [{ op: "exp", args: [0], per: "token" }, null],
    [{ op: "exp", args: [0], per: "batch" }, /gives a value per token, not per batch/],
    [{ op: "exp", args: [], per: "batch" }, /takes 1 values and got 0/],
    [{ op: "add", args: [0, 1], per: "token" }, /mixes values per token and sequence/],
    [{ op: "add", args: [0, 2], per: "token" }, /reads operation 2, which is not before it/],
    [{ op: "mean", args: [0], per: "token" }, /gives a value per batch, not per token/],
    [{ op: "spread", args: [0], per: "token" }, /takes values per sequence and got token/],
    [{ op: "groupStd", args: [1], per: "sequence" }, /needs attributes unbiased, eps/],
    [{ op: "spread", args: [1], per: "token", attrs: { x: 1 } }, /needs attributes none/],
    [
      { op: "gae", args: [0, 0, 0], per: "token", attrs: { gamma: 1, lambda: 1 } },
      /takes values per token, token, sequence and got token, token, token/,
    ],
    [{ op: "where", args: [1, 0, 0], per: "token" }, /mixes values per sequence and token/],
    [{ op: "const", value: Infinity, per: "batch" }, /is not finite/],
    [{ op: "const", value: 1, per: "token" }, /is per token/],
    [{ op: "input", field: "k", from: "state", per: "token" }, /is a state and not per batch/],
    [{ op: "convolve", args: [0], per: "token" }, /is no known operation/],
  ];
  for (const [op, message] of cases) {
    const found = exprViolations({ ops: [token, sequence, op], outputs: { y: 2 } } as never);
    if (message) assert.match(found.join("; "), message, JSON.stringify(op));
    else assert.deepEqual(found, []);
  }
  assert.deepEqual(exprViolations({ ops: [], outputs: { y: 0 } }), ['output "y" names no operation']);
});

const { graph } = ppo();
const assignment: Assignment = {
  mesh: { node: 0, nodes: 2, device: 0, devices: 4 },
  strategy: { dp: 2, tp: 2, pp: 2 },
  microBatchTokens: 4096,
  zero: 0,
  recompute: "nothing",
  offload: false,
};
const plan: ExecutionPlan = {
  version: 1,
  graph: digest(graph),
  cluster: { nodes: 2, devicesPerNode: 4, memoryBytes: 1e9, links: [] },
  assignments: Object.fromEntries(
    graph.calls.filter((c) => "model" in c).map((c) => [c.id, structuredClone(assignment)]),
  ),
};

Deno.test("checkPlan() accepts a plan that assigns every model function call", () => checkPlan(plan, graph));

const PLAN_BREAKS: readonly (readonly [string, (plan: Broken) => void, RegExp])[] = [
  [
    "a plan for another graph",
    (p) => p.graph = "0",
    /it was made for graph 0 and this is [0-9a-f]{16}, plan again/,
  ],
  ["a cluster without devices", (p) => p.cluster.nodes = 0, /its cluster has no devices/],
  ["a call without an assignment", (p) => delete p.assignments["ref.infer"], /ref\.infer has no assignment/],
  [
    "an assignment without a call",
    (p) => p.assignments.gae = assignment,
    /"gae" is assigned and is no model function call/,
  ],
  [
    "a mesh outside the nodes",
    (p) => p.assignments["ref.infer"].mesh.node = 1,
    /ref\.infer uses devices 4-11 of 0-7/,
  ],
  [
    "a mesh across nodes that is not whole nodes",
    (p) => p.assignments["ref.infer"].mesh = { node: 0, nodes: 1, device: 2, devices: 4 },
    /ref\.infer uses devices 2-5, which are neither of one node nor whole nodes; ref\.infer has 4 devices for dp 2/,
  ],
  [
    "a mesh without devices",
    (p) => p.assignments["ref.infer"].mesh.devices = 0,
    /ref\.infer spans 2 nodes with 0 of 4/,
  ],
  [
    "an offloaded replica that another call keeps",
    (p) => p.assignments["actor.train"].offload = true,
    /actor\.train and actor\.generate use one replica and only one offloads it/,
  ],
  [
    "half nodes",
    (p) => p.assignments["ref.infer"].mesh.devices = 2,
    /ref\.infer spans 2 nodes with 2 of 4 devices in each, use whole nodes/,
  ],
  [
    "a product that is not the mesh",
    (p) => p.assignments["ref.infer"].strategy.dp = 1,
    /ref\.infer has 8 devices for dp 1 × tp 2 × pp 2/,
  ],
  [
    "empty micro-batches",
    (p) => p.assignments["ref.infer"].microBatchTokens = 0,
    /ref\.infer has micro-batches of 0 tokens/,
  ],
  [
    "sharded optimizer states without training",
    (p) => p.assignments["ref.infer"].zero = 1,
    /ref\.infer shards optimizer states/,
  ],
];
for (const [what, how, message] of PLAN_BREAKS) {
  Deno.test(`checkPlan() refuses ${what}`, () => {
    assert.match(planViolations(broken(plan, how), graph).join("; "), message);
    assert.throws(() => checkPlan(broken(plan, how), graph), /^TypeError: Cannot use this plan for "ppo": /);
  });
}

Deno.test("checkPlan() refuses two trains of one model under two assignments", () => {
  const twice: CallGraph = broken(
    graph,
    (g) => g.calls.push({ ...callOf(g, "actor.train"), id: "actor.train#2" }),
  );
  const both = broken(plan, (p) => {
    p.graph = digest(twice);
    p.assignments["actor.train#2"] = { ...assignment, microBatchTokens: 1024 };
  });
  assert.deepEqual(planViolations(both, twice), []);
  const apart = broken(both, (p) => p.assignments["actor.train#2"].zero = 1);
  assert.deepEqual(planViolations(apart, twice), [
    'actor.train#2 and actor.train train "actor" under two assignments',
  ]);
});
