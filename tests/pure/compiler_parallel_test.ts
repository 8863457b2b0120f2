/** What programs of many ranks ask of each other, read back from their bytes. */
import assert from "node:assert/strict";
import {
  compileDecode,
  compileFold,
  compileInfer,
  compilePrefill,
  compileTrain,
  compileUpdate,
} from "../../compiler/compile.ts";
import { layoutViolations, type Shard, shardsOf, wholeShard } from "../../compiler/layout.ts";
import { compilePlan, generateGroups } from "../../compiler/programs.ts";
import { cacheSizes, generateMaxima, microMaxima } from "../../compiler/sizes.ts";
import type { CallGraph } from "../../ir/graph.ts";
import { AXES, type Axis } from "../../ir/op.ts";
import type { Assignment } from "../../ir/plan.ts";
import type { Program } from "../../ir/program.ts";
import { decode } from "./compiler_decoder.ts";
import { ADAMW, CACHE, MAXIMA, nll, SAMPLING, tiny, Trace } from "./compiler_fixtures.ts";

const CONFIGS = [
  tiny({ num_hidden_layers: 3, vocab_size: 515, intermediate_size: 72 }),
  tiny({
    num_hidden_layers: 3,
    model_type: "qwen3",
    architectures: [],
    num_attention_heads: 6,
    head_dim: 8,
    attention_bias: true,
    tie_word_embeddings: true,
  }),
];
const maxima = { ...MAXIMA, shard: 32 };
const generate = { ...CACHE, maxima, sampling: SAMPLING };
const infer = (shard: Shard) =>
  compileInfer(shard, { maxima, outputs: shard.head === "lm" ? ["logprobs", "entropy"] : ["values"] });
const perSum = (): ReturnType<Trace["expr"]> => {
  const t = new Trace();
  return t.expr({ loss: t.mean(t.op("square", [t.now("values")])) });
};
const train = (shard: Shard, recompute: Assignment["recompute"] = "nothing") =>
  compileTrain(shard, { maxima, loss: shard.head === "lm" ? nll() : perSum(), fields: {}, recompute });

/** Operations in which ranks meet, "allReduce over tp of 64", in order. */
function meetings(p: Program): string[] {
  return decode(p.bytes).ops.flatMap(({ kind, attributes }) => {
    const meets = /^(allReduce|allGather|reduceScatter|sumDoubles|shardLogprob)/.test(kind);
    if (!meets) return [];
    // Behind the axis of a head is how its weight lies.
    const axis = AXES[attributes.at(kind === "shardLogprob" ? -3 : -1) as number]!,
      [size, width] = attributes;
    const own = kind === "shardLogprob" || kind === "allGatherColumns";
    return [`${kind} over ${axis} of ${JSON.stringify(size)}${own ? "" : ` ${width}`}`];
  });
}
const axesOf = (p: Program): Axis[] =>
  AXES.filter((axis) => meetings(p).some((m) => m.includes(`over ${axis} `)));
const ports = (p: Program, segment: string) =>
  Object.keys(p.ports).filter((name) => name.startsWith(`${segment}/`)).map((name) =>
    name.slice(segment.length + 1)
  ).sort();

/** Programs of one rank by name. */
const programsOf = (shard: Shard): Record<string, Program> => {
  const { forward, backward } = train(shard), again = train(shard, "layers"), cheap = train(shard, "cheap");
  return {
    infer: infer(shard),
    ...(forward && { forward, "forward again": again.forward!, "forward cheap": cheap.forward! }),
    backward,
    "backward again": again.backward,
    "backward cheap": cheap.backward,
    ...(shard.head === "lm" &&
      { prefill: compilePrefill(shard, generate), decode: compileDecode(shard, generate) }),
  };
};

Deno.test("the programs of one device meet nobody", () => {
  for (const config of CONFIGS) {
    for (const head of ["lm", "value"] as const) {
      const shard = wholeShard(config, head);
      for (
        const [name, p] of Object.entries({
          ...programsOf(shard),
          update: compileUpdate(shard, ADAMW, { zero: 1 }),
        })
      ) {
        assert.deepEqual(meetings(p), [], name);
        assert.equal(p.segmentBytes.saved, 0);
      }
    }
  }
});

Deno.test("tensor shards of a stage meet in the same operations in the same order", () => {
  for (const config of CONFIGS) {
    for (const head of ["lm", "value"] as const) {
      for (const [tp, pp] of [[2, 1], [4, 1], [2, 2], [2, 3], [4, 3]] as const) {
        assert.deepEqual(layoutViolations(config, { tp, pp }), []);
        for (const stage of shardsOf(config, head, { tp, pp })) {
          const [first, ...others] = stage.map(programsOf);
          for (const [name, p] of Object.entries(first!)) {
            assert.deepEqual(axesOf(p), ["tp"], name);
            for (const other of others) assert.deepEqual(meetings(other[name]!), meetings(p), name);
          }
        }
      }
    }
  }
});

Deno.test("ranks of every group meet in the same operations of an update, and only over axes with several ranks", () => {
  for (const config of CONFIGS) {
    for (const head of ["lm", "value"] as const) {
      for (
        const [dp, tp, pp] of [[2, 1, 1], [1, 2, 1], [1, 4, 1], [1, 1, 2], [2, 2, 3], [3, 4, 2]] as const
      ) {
        for (const zero of [0, 1] as const) {
          const ranks = shardsOf(config, head, { tp, pp }).flatMap((stage, s) =>
            stage.flatMap((shard, t) =>
              Array.from(
                { length: dp },
                (_, d) => ({ s, t, d, p: compileUpdate(shard, ADAMW, { dp, rank: d, zero }) }),
              )
            )
          );
          const replicas = Math.max(1, tp / config.kvHeads);
          /** Ranks with one key meet over the axis. */
          const groups: Record<Axis, (r: typeof ranks[number]) => string | null> = {
            tp: ({ s, d }) => `${s} ${d}`,
            kv: ({ s, t, d }) => `${s} ${Math.floor(t / replicas)} ${d}`,
            tied: ({ s, t, d }) => s === 0 || s === pp - 1 ? `${t} ${d}` : null,
            dp: ({ s, t }) => `${s} ${t}`,
            world: () => "",
          };
          const tied = head === "lm" && config.tied && pp > 1;
          const expected: Record<Axis, boolean> = {
            tp: tp > 1,
            kv: replicas > 1,
            tied,
            dp: dp > 1,
            world: true,
          };
          for (const axis of AXES) {
            const over = (r: typeof ranks[number]) =>
              meetings(r.p).filter((m) => m.includes(`over ${axis} `));
            const byGroup = Map.groupBy(ranks, groups[axis]);
            for (const [group, members] of byGroup) {
              for (const member of members) assert.deepEqual(over(member), over(members[0]!), axis);
              assert.equal(over(members[0]!).length > 0, expected[axis] && group !== null, axis);
            }
          }
        }
      }
    }
  }
});

Deno.test("gradients that are partial sums of the whole tensor-parallel group are added up in one operation", () => {
  for (const head of ["lm", "value"] as const) {
    for (const shard of shardsOf(CONFIGS[1]!, head, { tp: 2, pp: 1 }).flat()) {
      const over = meetings(compileUpdate(shard, ADAMW)).filter((m) => m.startsWith("allReduce over tp"));
      assert.equal(over.length, 1);
    }
  }
});

Deno.test("every stage reads and writes what it is for", () => {
  for (const tp of [1, 2]) {
    const [first, middle, last] = shardsOf(CONFIGS[1]!, "lm", { tp, pp: 3 }).map((stage) => stage[0]!) as [
      Shard,
      Shard,
      Shard,
    ];
    const head = ["inverseTemperature", "rows", "targets"], sequences = ["ends", "positions"];
    const sorted = (...names: string[]) => names.sort();
    assert.deepEqual([first, middle, last].map((s) => ports(infer(s), "inputs")), [
      sorted("ids", ...sequences),
      sorted("x", ...sequences),
      sorted("x", ...sequences, ...head),
    ]);
    assert.deepEqual([first, middle, last].map((s) => ports(infer(s), "outputs")), [["y"], ["y"], [
      "entropy",
      "logprobs",
    ]]);

    const programs = [first, middle, last].map((s) => train(s));
    assert.deepEqual(programs.map((p) => ports(p.backward, "inputs")), [
      sorted("ids", "dy", ...sequences),
      sorted("x", "dy", ...sequences),
      sorted("x", "count.token", ...sequences, ...head),
    ]);
    assert.deepEqual(programs.map((p) => ports(p.backward, "outputs")), [["y"], ["dx", "y"], [
      "dx",
      "logprobs",
      "sum.0",
    ]]);
    assert.deepEqual(programs.map((p) => p.forward === null), [false, false, true]);
    assert.equal(programs[2]!.backward.segmentBytes.saved, 0);
    for (const { forward, backward } of programs.slice(0, 2)) {
      for (const segment of ["inputs", "outputs", "saved", "params", "grads", "constants"] as const) {
        assert.equal(forward!.segmentBytes[segment], backward.segmentBytes[segment], segment);
      }
      assert.deepEqual(forward!.ports, backward.ports);
      assert.ok(backward.segmentBytes.saved > 0);
    }
    const rows = { symbol: tp > 1 ? "shard" : "tokens", times: 1 };
    for (const port of ["inputs/x", "inputs/dy", "outputs/y", "outputs/dx"]) {
      assert.deepEqual(programs[1]!.backward.ports[port]!.shape, [rows, CONFIGS[1]!.hidden], port);
    }

    const decodes = [first, middle, last].map((s) => compileDecode(s, generate));
    assert.deepEqual(decodes.map((p) => ports(p, "inputs")), [["slots"], ["slots", "x"], ["slots", "x"]]);
    assert.deepEqual(decodes.map((p) => ports(p, "outputs")), [["y"], ["y"], []]);
    const state = (p: Program) => Object.entries(p.ports).filter(([name]) => name.startsWith("state/"));
    for (const p of decodes) assert.deepEqual(state(p), state(decodes[0]!));
  }
});

Deno.test("a stage saves less the more it recomputes, and with whole layers only what enters them", () => {
  for (const tp of [1, 2]) {
    const [stage] = shardsOf(tiny({ num_hidden_layers: 6 }), "lm", { tp, pp: 2 })[1]!, layers = stage!.layers;
    const [first] = shardsOf(tiny({ num_hidden_layers: 6 }), "lm", { tp, pp: 2 })[0]!;
    const saved = (shard: Shard, recompute: Assignment["recompute"]) =>
      train(shard, recompute).backward.segmentBytes.saved;
    const [all, cheap, least] = [saved(first!, "nothing"), saved(first!, "cheap"), saved(first!, "layers")];
    assert.ok(all > cheap && cheap > least, `${all} ${cheap} ${least}`);
    const rows = tp > 1 ? maxima.shard : maxima.tokens, depth = first!.layers.to - first!.layers.from;
    assert.equal(least, 4 * depth * rows * 32);
    assert.equal(depth + layers.to - layers.from, 6);
  }
});

Deno.test("layers of a stage have the cache's pages to themselves, and heads of a shard their part of them", () => {
  const kv = (tp: number, pp: number) =>
    shardsOf(CONFIGS[0]!, "lm", { tp, pp }).map((stage) =>
      stage.map((s) => compileDecode(s, generate).segmentBytes.kv)
    );
  const [[whole]] = kv(1, 1) as [[number]];
  assert.deepEqual(kv(1, 3), [[whole / 3], [whole / 3], [whole / 3]]);
  assert.deepEqual(kv(2, 1), [[whole / 2, whole / 2]]);
  assert.deepEqual(
    kv(4, 1),
    [[whole / 2, whole / 2, whole / 2, whole / 2]],
    "two heads that two shards have each",
  );
  const layers = decode(compileDecode(shardsOf(CONFIGS[0]!, "lm", { tp: 1, pp: 3 })[2]![0]!, generate).bytes)
    .ops.filter((op) => op.kind === "ropeKvWrite").map((op) => op.attributes[4]);
  assert.deepEqual(layers, [0]);
});

Deno.test("compileFold() reads the sums of the batch and nothing per token", () => {
  const t = new Trace(), x = t.now("logprobs"), scale = t.batch("scale", "batch"), beta = t.state("beta");
  const mean = t.mean(t.op("mul", [x, t.batch("advantages")])),
    sum = t.op("sum", [t.op("square", [x])], "batch");
  const expr = t.expr({ loss: t.op("mul", [mean, scale]), kl: t.op("mul", [sum, beta]) });
  const p = compileFold(expr, t.fields);
  assert.deepEqual(ports(p, "inputs"), ["count.token", "field.scale", "state.beta", "sum.0", "sum.1"]);
  assert.deepEqual(ports(p, "outputs"), ["loss", "metric.kl"]);
  const trained = compileTrain(wholeShard(tiny(), "lm"), {
    maxima,
    loss: expr,
    fields: t.fields,
    recompute: "nothing",
  });
  assert.deepEqual(ports(trained.backward, "outputs"), ["logprobs", "sum.0", "sum.1"]);
});

const assignment = (dp: number, tp: number, pp: number): Assignment => ({
  mesh: { node: 0, nodes: 1, device: 0, devices: dp * tp * pp },
  strategy: { dp, tp, pp },
  microBatchTokens: 100,
  zero: 0,
  recompute: "nothing",
  offload: false,
});

Deno.test("compilePlan() gives every rank of every call its programs", () => {
  const tokens = { tokens: "tokens" }, loss = nll(), field = { per: "token", dtype: "f32" } as const;
  const graph: CallGraph = {
    version: 1,
    name: "test",
    models: { actor: { head: "lm", checkpoint: "", optimizer: ADAMW } },
    source: { kind: "prompts", path: "", batch: 6, fields: {}, shuffle: false, heldOut: 0 },
    fields: { tokens: { per: "token", dtype: "tokens" }, logprobs: field },
    calls: [
      { kind: "generate", id: "generate", model: "actor", sampling: SAMPLING, reads: {}, writes: tokens },
      { kind: "infer", id: "infer", model: "actor", reads: tokens, writes: { logprobs: "logprobs" } },
      {
        kind: "train",
        id: "train",
        model: "actor",
        loss,
        minibatches: 1,
        epochs: 1,
        reads: tokens,
        writes: {},
      },
    ],
    states: {},
  };
  const assignments = {
    generate: assignment(2, 2, 3),
    infer: assignment(4, 1, 2),
    train: { ...assignment(3, 4, 2), zero: 1 as const },
  };
  const cluster = { nodes: 1, devicesPerNode: 24, memoryBytes: 1e9, links: [] };
  const plan = { version: 1, graph: "", cluster, assignments } as const;
  const sizes = { sequences: 6, group: 1, longestPrompt: 10, longest: 26, longestResponse: 16 };
  const programs = compilePlan(graph, plan, { actor: CONFIGS[0]! }, sizes, {});
  const counts = (grid: readonly (readonly unknown[])[]) => grid.map((stage) => stage.length);
  assert.deepEqual(counts(programs.generate.generate!.ranks), [2, 2, 2]);
  assert.equal(programs.generate.generate!.cache.slots, 1);
  assert.deepEqual(counts(programs.infer.infer!), [1, 1]);
  assert.deepEqual(counts(programs.train.train!.ranks), [4, 4]);
  assert.deepEqual(programs.update.actor!.map((stage) => stage.map((ranks) => ranks.length)), [[3, 3, 3, 3], [
    3,
    3,
    3,
    3,
  ]]);
  assert.equal(programs.train.train!.together, 1);
  assert.deepEqual(ports(programs.train.train!.fold, "outputs"), ["loss"]);
});

Deno.test("a rollout has the slots that its share of the step's sequences can use", () => {
  const sizes = { sequences: 500, group: 4, longestPrompt: 30, longest: 46, longestResponse: 16 };
  const slots = (dp: number, pp: number, sequences = 500) =>
    cacheSizes(tiny(), assignment(dp, 1, pp), { ...sizes, sequences }, { maxNew: 16, stops: 0 }).slots;
  assert.deepEqual([slots(1, 1), slots(8, 1), slots(1, 2), slots(2, 4)], [128, 63, 64, 32]);
  assert.deepEqual([slots(1, 1, 6), slots(4, 1, 6), slots(2, 3, 6), slots(8, 4, 6)], [6, 2, 1, 1]);
  assert.deepEqual([generateGroups({ pp: 1 }), generateGroups({ pp: 3 })], [1, 3]);
  const cache = cacheSizes(tiny(), assignment(2, 4, 1), sizes, { maxNew: 16, stops: 0, pages: 7 });
  assert.deepEqual(cache, { slots: 128, pages: 7, maxPages: 3, maxNew: 16, stops: 1, longestPrompt: 30 });
  const { prefill, decode } = generateMaxima(assignment(2, 4, 1), sizes, cache);
  assert.deepEqual([prefill.tokens, prefill.shard, decode.tokens, decode.shard], [100, 25, 128, 32]);
});

Deno.test("a rank of a micro-batch owns at most its share of the rows, and none where rows are not shared out", () => {
  const sizes = { sequences: 8, group: 2, longestPrompt: 9, longest: 30, longestResponse: 20 };
  assert.equal(microMaxima(assignment(1, 1, 4), sizes).shard, 0);
  assert.deepEqual(microMaxima(assignment(2, 3, 1), sizes), {
    one: 1,
    tokens: 100,
    actions: 100,
    sequences: 8,
    groups: 8,
    pairs: 4,
    shard: 34,
  });
});
