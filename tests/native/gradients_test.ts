/** Every derivative rule against central differences of the compiled program, run on the device. */
import assert from "node:assert/strict";
import { Binding } from "../../engine/binding.ts";
import { Device } from "../../ffi/device.ts";
import { differentiate } from "../../compiler/autodiff.ts";
import { Builder, type Weight } from "../../compiler/builder.ts";
import { DERIVATIVES } from "../../compiler/derivatives.ts";
import { finish } from "../../compiler/finish.ts";
import { reservedBytes } from "../../compiler/shape.ts";
import { dim, elements, type Maxima, type OpKind, PANEL, type Shape, type Value } from "../../ir/op.ts";
import { random } from "../golden/model_runner.ts";

const LIVE: Maxima = { one: 1, tokens: 7, actions: 5, sequences: 3, groups: 2, pairs: 2, shard: 0 };
/** Larger than what is live, so that a kernel that takes the largest dims for the live ones fails. */
const MAXIMA: Maxima = { one: 1, tokens: 11, actions: 9, sequences: 4, groups: 3, pairs: 2, shard: 0 };
const INTEGERS: Readonly<Record<string, readonly number[]>> = {
  ids: [3, 0, 18, 3, 7, 1, 18],
  positions: [0, 1, 2, 3, 0, 0, 1],
  ends: [4, 5, 7],
  rows: [2, 0, 6, 6, 3],
  targets: [18, 0, 5, 16, 2],
  actionEnds: [2, 2, 5],
  groupEnds: [1, 3],
  // Three of each row, or fewer: the target is one of them.
  kept: [4, 7, 18, 0, 1, -1, 2, 5, 18, 16, -1, -1, 2, 4, 17],
};
const SHAPES: Readonly<Record<string, Shape>> = {
  ids: [dim("tokens")],
  positions: [dim("tokens")],
  ends: [dim("sequences")],
  rows: [dim("actions")],
  targets: [dim("actions")],
  actionEnds: [dim("sequences")],
  groupEnds: [dim("groups")],
  kept: [dim("actions"), 3],
};
const T = dim("tokens"), A = dim("actions"), S = dim("sequences");

/** What a case builds with: parameters to differentiate by, integer inputs, matrices in panels, a rotary table. */
class Bench {
  readonly b = new Builder((v) => reservedBytes(v, MAXIMA));
  readonly parameters: { readonly v: Value; readonly outputs: number | null }[] = [];
  param(name: string, ...shape: Shape): Value {
    const v = this.b.declare("params", name, shape);
    this.parameters.push({ v, outputs: null });
    return v;
  }
  matrix(name: string, outputs: number, inputs: number, panels = true): Weight {
    const shape: Shape = panels ? [Math.ceil(outputs / PANEL), inputs, PANEL] : [outputs, inputs];
    const value = this.b.declare("params", name, shape);
    this.parameters.push({ v: value, outputs: panels ? outputs : null });
    return { value, outputs, inputs, panels };
  }
  integers(name: string): Value {
    return this.b.input(name, SHAPES[name]!, "i32");
  }
  /** A matrix of 19 outputs and 6 inputs that has no gradient. */
  get frozen(): Weight {
    return {
      value: this.b.declare("constants", "frozen", [2, 6, PANEL]),
      outputs: 19,
      inputs: 6,
      panels: true,
    };
  }
  get table(): Value {
    return this.b.declare("constants", "rope", [4, 6]);
  }
}
/** Whether element i of a parameter is data: the padding of a last panel is not. */
const isData = (v: Value, outputs: number | null, i: number) =>
  outputs === null || PANEL * Math.floor(i / (PANEL * (v.shape[1] as number))) + i % PANEL < outputs;

const heads = { heads: 4, kvHeads: 2, headDim: 6, window: 0 };
const attention = (bench: Bench, window: number) =>
  bench.b.attention(
    bench.param("q", T, 24),
    bench.param("k", T, 12),
    bench.param("v", T, 12),
    bench.integers("ends"),
    {
      ...heads,
      window,
    },
  );
const head = (bench: Bench, withEntropy: boolean) => {
  const { b } = bench, x = bench.param("x", A, 6), w = bench.matrix("w", 19, 6);
  return b.linearLogprob(x, w, bench.integers("targets"), b.input("inverseTemperature", [1]), withEntropy);
};
const kept = (bench: Bench, withEntropy: boolean) => {
  const { b } = bench, x = bench.param("x", A, 6), w = bench.matrix("w", 19, 6);
  const lists = bench.integers("kept"), targets = bench.integers("targets");
  return b.keptLogprob(x, w, lists, targets, b.input("inverseTemperature", [1]), withEntropy);
};

const CASES: Readonly<Record<string, (bench: Bench) => Value>> = {
  embedding: (t) => t.b.embedding(t.integers("ids"), t.matrix("w", 19, 6, false)),
  "embedding in panels": (t) => t.b.embedding(t.integers("ids"), t.matrix("w", 19, 6)),
  matmul: (t) => t.b.matmul(t.param("x", T, 6), t.matrix("w", 19, 6)),
  "matmul with one output": (t) => t.b.matmul(t.param("x", T, 37), t.matrix("w", 1, 37)),
  addBias: (t) => t.b.addBias(t.param("x", T, 5), t.param("bias", 5)),
  rmsnorm: (t) => t.b.rmsnorm(t.param("x", T, 19), t.param("w", 19), 1e-5),
  "rmsnorm per head": (t) => t.b.rmsnorm(t.param("x", T, 12), t.param("w", 6), 1e-5),
  rope: (t) => t.b.rope(t.param("x", T, 12), t.integers("positions"), t.table),
  attention: (t) => attention(t, 0),
  "attention with a window": (t) => attention(t, 2),
  swiglu: (t) => t.b.swiglu(t.param("gate", T, 5), t.param("up", T, 5)),
  linearLogprob: (t) => head(t, false).logprobs,
  "linearLogprob by entropy": (t) => head(t, true).entropy!,
  "linearLogprob by both": (t) => {
    const { logprobs, entropy } = head(t, true);
    return t.b.pointwise("mul", logprobs, entropy!);
  },
  "linearLogprob with a frozen head": (t) => {
    const x = t.param("x", A, 6), targets = t.integers("targets");
    return t.b.linearLogprob(x, t.frozen, targets, t.b.input("inverseTemperature", [1]), true).entropy!;
  },
  keptLogprob: (t) => kept(t, false).logprobs,
  "keptLogprob by both": (t) => {
    const { logprobs, entropy } = kept(t, true);
    return t.b.pointwise("mul", logprobs, entropy!);
  },
  gatherRows: (t) => t.b.gatherRows(t.param("x", T, 5), t.integers("rows")),
  pointwise: (t) => t.b.pointwise("mul", t.b.pointwise("sigmoid", t.param("x", T, 5)), t.param("y", T, 5)),
  "pointwise with a broadcast scalar": (t) =>
    t.b.pointwise("div", t.param("x", T, 5), t.b.pointwise("exp", t.param("s", 1))),
  segmentSum: (t) => t.b.segmentSum(t.param("x", A), t.integers("actionEnds")),
  segmentSpread: (t) => t.b.segmentSpread(t.param("x", S), t.integers("actionEnds"), A),
  segmentLast: (t) => t.b.segmentLast(t.param("x", A), t.integers("actionEnds")),
  segmentAtEnd: (t) => t.b.segmentAtEnd(t.param("x", S), t.integers("actionEnds"), A),
  total: (t) => t.b.total(t.b.pointwise("exp", t.param("x", A))),
  strideGather: (t) => t.b.strideGather(t.param("x", 6), dim("one", 2), 3, 1),
  strideScatter: (t) => t.b.strideScatter(t.param("x", 2), [6], 3, 1),
  "a value that is read five times": (t) => {
    const x = t.param("x", T, 6), w = t.matrix("w", 6, 6), norm = t.param("norm", 6);
    const y = t.b.pointwise("add", t.b.matmul(x, w), t.b.rmsnorm(x, norm, 1e-5));
    return t.b.pointwise(
      "mul",
      t.b.pointwise("add", y, x),
      t.b.swiglu(x, t.b.matmul(t.b.pointwise("sigmoid", x), w)),
    );
  },
  "a matrix as embedding and as head": (t) => {
    const w = t.matrix("w", 19, 6),
      hidden = t.b.gatherRows(t.b.embedding(t.integers("ids"), w), t.integers("rows"));
    return t.b.linearLogprob(hidden, w, t.integers("targets"), t.b.input("inverseTemperature", [1]), false)
      .logprobs;
  },
};

const STEP = 0.04;
/** Fifth-order central difference: its error is far below float32's rounding at this step. */
const slope = (f: readonly number[]) => (8 * (f[2]! - f[1]!) - (f[3]! - f[0]!)) / (12 * STEP);
const OFFSETS = [-2 * STEP, -STEP, STEP, 2 * STEP];

async function check(name: string, build: (bench: Bench) => Value, device: Device): Promise<Set<OpKind>> {
  const bench = new Bench(), { b, parameters } = bench, result = build(bench);
  const kinds = new Set(b.ops.map((op) => op.kind));
  b.output("result", result);
  // The loss is a random projection of the result, made with weights that the host reads back and applies in float64.
  const weights = b.input("weights", result.shape);
  const gradients = new Map(parameters.map(({ v }) => [v, b.declare("grads", v.name, v.shape)]));
  differentiate(b, b.total(b.pointwise("mul", result, weights)), gradients);
  const binding = new Binding(device, finish(name, b, b.ops, { maxima: MAXIMA }), {});
  const next = random(name.length), draw = (n: number) => Float32Array.from({ length: n }, next);
  binding.zero("grads");
  const projection = draw(elements(result.shape, LIVE));
  binding.write("inputs/weights", projection);
  for (const [port, values] of Object.entries(INTEGERS)) {
    binding.offer(`inputs/${port}`, Int32Array.from(values));
  }
  binding.offer("inputs/inverseTemperature", Float32Array.of(0.7));
  binding.offer("constants/frozen", draw(2 * 6 * PANEL));
  const angles = Array.from({ length: 12 }, (_, i) => Math.floor(i / 3) * 0.9 ** (i % 3));
  const row = (
    p: number,
  ) => [...angles.slice(3 * p, 3 * p + 3).map(Math.cos), ...angles.slice(3 * p, 3 * p + 3).map(Math.sin)];
  binding.offer("constants/rope", Float32Array.from([0, 1, 2, 3].flatMap(row)));

  const data = parameters.map(({ v, outputs }) =>
    draw(elements(v.shape, LIVE)).map((x, i) => isData(v, outputs, i) ? x : 0)
  );
  parameters.forEach(({ v }, k) => binding.write(`params/${v.name}`, data[k]!));
  await binding.run(LIVE);
  const analytic = parameters.map(({ v }) => binding.read(`grads/${v.name}`, LIVE));
  const project = async (k: number, values: Float32Array) => {
    binding.write(`params/${parameters[k]!.v.name}`, values);
    await binding.run(LIVE);
    return binding.read("outputs/result", LIVE).reduce((s, y, i) => s + y * projection[i]!, 0);
  };
  for (const [k, { v, outputs }] of parameters.entries()) {
    const largest = Math.max(...analytic[k]!.map(Math.abs));
    assert.ok(largest > 0 && Number.isFinite(largest), `${name}: ${v.name} has a gradient`);
    for (let i = 0; i < data[k]!.length; i++) {
      if (!isData(v, outputs, i)) {
        assert.equal(analytic[k]![i], 0, `${name}: the padding of ${v.name} has no gradient`);
        continue;
      }
      const values: number[] = [];
      for (const d of OFFSETS) values.push(await project(k, data[k]!.with(i, data[k]![i]! + d)));
      const error = Math.abs(slope(values) - analytic[k]![i]!);
      assert.ok(
        error < 1e-3 * Math.max(1, largest),
        `${name}: d ${v.name}[${i}] is ${analytic[k]![i]}, differences say ${slope(values)}`,
      );
    }
    await project(k, data[k]!);
  }
  binding.dispose();
  return kinds;
}

const device = Device.open({ threads: 1 }), seen = new Set<OpKind>();
for (const [name, build] of Object.entries(CASES)) {
  Deno.test(`differentiate() agrees with central differences for ${name}`, async () => {
    for (const kind of await check(name, build, device)) seen.add(kind);
  });
}

Deno.test("every operation with a derivative rule is checked by central differences", () => {
  // Ranks that meet are the business of parallel_test.ts.
  const meeting = ["shardLogprob", "allGatherRows", "allReduce", "reduceScatterRows"];
  assert.deepEqual(Object.keys(DERIVATIVES).filter((kind) => !seen.has(kind as OpKind)), meeting);
});
