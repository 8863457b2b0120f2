/** What join.ts puts together, and what it leaves alone. */
import assert from "node:assert/strict";
import { Builder } from "../../compiler/builder.ts";
import { compileDecode, compileInfer, compilePrefill, compileTrain } from "../../compiler/compile.ts";
import { flops } from "../../compiler/flops.ts";
import { lowerOps } from "../../compiler/finish.ts";
import { join } from "../../compiler/join.ts";
import { lora } from "../../dsl/mod.ts";
import { type Shard, shardsOf } from "../../compiler/layout.ts";
import { partsOf } from "../../compiler/parts.ts";
import { bytesTouched, elementsOf } from "../../compiler/traffic.ts";
import { dim, type Op, type Value } from "../../ir/op.ts";
import type { Program, Work } from "../../ir/program.ts";
import { ALONE, workSeconds } from "../../planner/price.ts";
import { roofline } from "../../planner/profile.ts";
import { CACHE, MAXIMA, nll, SAMPLING, tiny } from "./compiler_fixtures.ts";

const SHEET = {
  name: "a GPU",
  teraflops: 100,
  memoryGBps: 1000,
  memoryBytes: 1e10,
  hostGBps: 10,
  elementBytes: 2,
  links: [],
};
const shard = (change: Record<string, unknown> = {}, tp = 1): Shard =>
  shardsOf(tiny({ num_hidden_layers: 1, ...change }), "lm", { tp, pp: 1 })[0]![0]!;
const QWEN3 = { model_type: "qwen3", architectures: [], head_dim: 16 };
const generation = { ...CACHE, sampling: SAMPLING, maxima: { ...MAXIMA, shard: 64 } };
const training = { maxima: { ...MAXIMA, shard: 64 }, loss: nll(), fields: {}, recompute: "nothing" } as const;

/** Kinds that join.ts makes or takes away, in their order. */
const kindsOf = ({ work }: Pick<Program, "work">): string[] =>
  work.map((w) => w.kind).filter((kind) => /rmsnorm|rope|kvWrite|pointwise/i.test(kind));

Deno.test("a layer that decodes rotates and stores its keys at once, and norms what it adds", () => {
  const layer = ["rmsnorm", "ropeKvWrite", "addRmsnorm", "addRmsnorm"];
  for (const change of [{}, QWEN3]) {
    const { work } = compileDecode(shard(change), generation),
      [write] = work.filter((w) => w.kind === "ropeKvWrite");
    assert.deepEqual(kindsOf({ work }), layer);
    assert.deepEqual(write!.attrs.slice(8), [Number(change === QWEN3), 0], "no rotated key beside the cache");
  }
  const [write] = compilePrefill(shard(), generation).work.filter((w) => w.kind === "ropeKvWrite");
  assert.equal(write!.attrs[9], 1, "attention of a prefill reads the rotated keys");
});

Deno.test("a layer that is trained has both gradients of a norm at once, and both rotations", () => {
  const joined = kindsOf(compileTrain(shard(QWEN3), training).backward).filter((kind) =>
    kind !== "pointwise"
  );
  assert.deepEqual(joined, [
    ...["rmsnorm", "ropes", "addRmsnorm", "rmsnorm"],
    ...["rmsnormGrad", "rmsnormGrad", "ropes", "rmsnormGrad", "rmsnormGrad", "rmsnormGrad"],
  ]);
});

Deno.test("recomputing what is cheap makes no norm of heads again: nothing but its statistics is read, and they are kept", () => {
  const norms = (recompute: "nothing" | "cheap") =>
    compileTrain(shard(QWEN3), { ...training, recompute }).backward.work.filter(({ kind }) =>
      kind === "rmsnorm"
    ).length;
  assert.equal(norms("cheap") - norms("nothing"), 2, "the norms of the layer's two inputs");
});

Deno.test("additions to the residual stream have no pass of their own in the backward pass", () => {
  for (const tp of [1, 2]) {
    const [one, two] = [1, 2].map((layers) =>
      compileTrain(shard({ num_hidden_layers: layers }, tp), training).backward.work.filter((w) =>
        w.kind === "pointwise"
      )
    );
    assert.equal(two!.length, one!.length, `${tp} ranks`);
  }
});

Deno.test("with tensor parallelism the sum and its norm are of a rank's own rows", () => {
  const { work } = compileInfer(shard({}, 2), { maxima: generation.maxima, outputs: ["logprobs"] });
  const [sum] = work.filter((w) => w.kind === "addRmsnorm");
  assert.deepEqual(sum!.attrs[0], dim("shard"));
});

const rows = [dim("tokens"), 8] as const;
const builder = () => {
  let offset = 0;
  return new Builder(() => (offset += 64, 64));
};
const kinds = (ops: readonly Op[]) => ops.map((op) => op.kind);

/** Two rotations after norms; `between` gives what the second one starts from. */
function rotated(between: (b: Builder, q: Value, normed: Value, x: Value) => Value): string[] {
  const b = builder(), x = b.input("x", rows), w = b.declare("params", "w", [4]);
  const positions = b.input("positions", [dim("tokens")], "i32"),
    table = b.declare("constants", "table", [9, 4]);
  const normed = b.rmsnorm(x, w, 1e-6), q = b.rope(normed, positions, table);
  const k = b.rope(b.rmsnorm(between(b, q, normed, x), w, 1e-6), positions, table);
  b.output("q", q), b.output("k", k);
  return kinds(lowerOps(b, b.ops));
}

Deno.test("rotations and the norms before them are joined only where nothing reads what is in between", () => {
  const bias = (b: Builder, x: Value) => b.addBias(x, b.declare("params", "bias", [8]));
  assert.deepEqual(rotated((b, _q, _n, x) => bias(b, x)), ["addBias", "ropes"]);
  assert.deepEqual(
    rotated((b, q) => bias(b, q)),
    ["rmsnorm", "rope", "addBias", "rmsnorm", "rope"],
    "k comes of q",
  );
  const seen = rotated((b, _q, normed, x) => (b.output("normed", normed), bias(b, x)));
  assert.deepEqual(seen, ["rmsnorm", "addBias", "rmsnorm", "ropes"], "a norm that is an output");
});

Deno.test("join() leaves a sum in place, and one of other numbers, to itself", () => {
  const b = builder(),
    x = b.declare("grads", "x", rows),
    y = b.input("y", rows),
    w = b.declare("params", "w", [8]);
  const sum = b.sum(x, y, b.value("x", rows, { place: x.place }));
  b.output("n", b.rmsnorm(sum, w, 1e-6));
  b.output("m", b.rmsnorm(b.pointwise("sub", y, x), w, 1e-6));
  assert.deepEqual(kinds(join(b.ops)), kinds(b.ops));
});

Deno.test("a profile without joined operations prices what they stand for, and one without those their bytes", () => {
  const programs = [
    compileDecode(shard(QWEN3), generation),
    compileTrain(shard(QWEN3), training).backward,
  ];
  const joined = programs.flatMap((p) => p.work).filter((w) =>
    partsOf(w).length > 0 && !/matmul/i.test(w.kind)
  );
  assert.deepEqual(
    new Set(joined.map((w) => w.kind)),
    new Set(["addRmsnorm", "ropes", "ropeKvWrite", "rmsnormGrad"]),
  );
  const live = { ...MAXIMA, context: 10 },
    groups = { tp: ALONE, kv: ALONE, tied: ALONE, dp: ALONE, world: ALONE };
  const bare = { ...roofline(SHEET), launchMicroseconds: 0 };
  const flat = { axes: [[1, 1e9]], seconds: [1e-9, 1] };
  const measured = {
    ...bare,
    tables: { ...bare.tables, rope: flat, rmsnorm: flat, rmsnormDx: flat, pointwise: flat },
  };
  const seconds = (work: Work, p: typeof bare) => workSeconds(work, live, groups, p);
  for (const work of joined) {
    assert.equal(seconds(work, bare), bytesTouched(work, live) / (bare.memoryGBps * 1e9));
    const parts = partsOf(work).reduce((n, part) => n + seconds(part, measured), 0);
    assert.ok(Math.abs(seconds(work, measured) - parts) <= 1e-12 * parts, work.kind);
    assert.ok(
      partsOf(work).reduce((n, part) => n + elementsOf(part, live), 0) >= elementsOf(work, live),
      work.kind,
    );
    const own = { ...measured, tables: { ...measured.tables, [work.kind]: { axes: [[1]], seconds: [2] } } };
    assert.ok(seconds(work, own) > 1, "its own figures where there are some");
  }
});

/** Kinds of products and of what gates them, in their order. */
const productKinds = ({ work }: Pick<Program, "work">) =>
  work.map((w) => w.kind).filter((kind) => /matmul[23]?$|^swiglu$/i.test(kind));

Deno.test("queries, keys and values are one product; gate and up are one with swiglu where nothing else reads them", () => {
  const layer = ["matmul3", "matmul", "gatedMatmul", "matmul"];
  assert.deepEqual(productKinds(compileDecode(shard(), generation)), [...layer, "matmul"], "and the head");
  assert.deepEqual(productKinds(compilePrefill(shard(QWEN3), generation)), [...layer, "matmul"]);
  const infer = { maxima: generation.maxima, outputs: ["logprobs"] } as const;
  for (const tp of [1, 2]) {
    assert.deepEqual(productKinds(compileInfer(shard({}, tp), infer)), layer, `${tp} ranks`);
  }
  const biased = compileInfer(shard({ attention_bias: true }), infer).work;
  assert.deepEqual(biased.filter((w) => w.kind === "matmul3").map((w) => w.attrs.at(-1)), [1]);
});

Deno.test("what is trained keeps gate and up, unless the backward pass makes them again", () => {
  const train = (recompute: "nothing" | "cheap" | "layers", layers = 1) =>
    productKinds(compileTrain(shard({ num_hidden_layers: layers }), { ...training, recompute }).backward);
  const layer = ["matmul3", "matmul", "matmul2", "swiglu", "matmul"];
  assert.deepEqual(train("nothing"), layer);
  assert.deepEqual(train("cheap"), [...layer, "swiglu"]);
  assert.deepEqual(train("layers"), [
    ...["matmul3", "matmul", "gatedMatmul", "matmul"],
    ...["matmul3", "matmul", "matmul2", "swiglu"],
  ]);
});

Deno.test("adapters' products of the same rows are shared out over operations of two or three", () => {
  const config = { ...tiny({ num_hidden_layers: 1 }), lora: lora({ rank: 2 }) };
  const adapted = compileTrain(shardsOf(config, "lm", { tp: 1, pp: 1 })[0]![0]!, training).backward;
  const count = (kind: string) => productKinds(adapted).filter((found) => found === kind).length;
  // W and A of q, k and v; of gate and up; of o; of down. Every B has rows of its own.
  assert.deepEqual(["matmul3", "matmul2", "matmul", "gatedMatmul"].map(count), [2, 4, 7, 0]);
});

/** Kinds of what is left of two products, of which the second one is `change`d. */
function beside(change: Partial<Record<"k" | "m" | "biased" | "dtype" | "needs", boolean>>): string[] {
  const b = builder(), size = [dim("tokens", change.m ? 2 : 1), 8] as const;
  const x = b.input("x", rows), other = change.m || change.k ? b.input("z", size) : x;
  const weight = (name: string) => b.declare("params", name, [16, 8]);
  const product = (from: Value, w: Value, rest: readonly Value[], n: number) => {
    const y = b.value("y", [from.shape[0]!, n], { dtype: change.dtype && w.name === "w2" ? "bf16" : "f32" });
    b.emit("matmul", [from, w, ...rest], [y], [from.shape[0]!, n, 8, 1, rest.length]);
    return y;
  };
  const first = product(x, weight("w1"), [], 16), seen = b.pointwise("neg", first);
  b.output("seen", seen);
  const bias = change.biased ? [b.declare("params", "bias", [16])] : [];
  b.output("y", product(other, change.needs ? seen : weight("w2"), bias, 16));
  return kinds(join(b.ops)).filter((kind) => kind !== "pointwise" && kind !== "copy");
}

Deno.test("products are joined only where rows and types are the same, biases all or none, and none needs the other", () => {
  assert.deepEqual(beside({}), ["matmul2"]);
  for (const change of ["k", "m", "biased", "dtype", "needs"] as const) {
    assert.deepEqual(beside({ [change]: true }), ["matmul", "matmul"], change);
  }
});

/** Kinds of what is left of a gate that lets its product through. */
function gate(change: (b: Builder, gate: Value, up: Value) => void, n = 16): string[] {
  const b = builder(), x = b.input("x", rows);
  const product = (name: string) =>
    b.matmul(x, { value: b.declare("params", name, [n, 8]), outputs: n, inputs: 8, panels: true });
  const [g, u] = [product("gate"), product("up")];
  b.output("y", b.swiglu(g, u));
  change(b, g, u);
  return kinds(lowerOps(b, b.ops));
}

Deno.test("a gate is joined with what it lets through only where nothing else reads either of them", () => {
  assert.deepEqual(gate(() => {}), ["gatedMatmul"]);
  assert.deepEqual(gate((b, g) => b.output("more", b.pointwise("neg", g))), [
    "matmul2",
    "swiglu",
    "pointwise",
  ]);
  assert.deepEqual(gate((b, _, u) => b.output("up", u)), ["matmul2", "swiglu"]);
});

Deno.test("joined products cost what one with all their outputs does: less than their parts, as much work", () => {
  const programs = [compileDecode(shard(), generation), compileTrain(shard(), training).backward];
  const joined = programs.flatMap((p) => p.work).filter((w) => /matmul[23]$|gated/.test(w.kind));
  assert.deepEqual(new Set(joined.map((w) => w.kind)), new Set(["matmul3", "matmul2", "gatedMatmul"]));
  const live = { ...MAXIMA, context: 10 },
    groups = { tp: ALONE, kv: ALONE, tied: ALONE, dp: ALONE, world: ALONE };
  const p = roofline(SHEET), seconds = (work: Work) => workSeconds(work, live, groups, p);
  const sum = (of: readonly Work[], f: (work: Work) => number) => of.reduce((n, part) => n + f(part), 0);
  for (const work of joined) {
    const parts = partsOf(work), count = work.kind === "matmul3" ? 3 : 2;
    assert.equal(parts.filter((part) => part.kind === "matmul").length, count);
    assert.ok(seconds(work) < sum(parts, seconds), work.kind);
    assert.ok(seconds(work) >= Math.max(...parts.map(seconds)), work.kind);
    const counted = (w: Work) => flops({ ...w, ins: [], outs: [] }, live);
    assert.equal(counted(work), sum(parts, counted), work.kind);
    assert.ok(bytesTouched(work, live) < sum(parts, (part) => bytesTouched(part, live)), work.kind);
  }
});
