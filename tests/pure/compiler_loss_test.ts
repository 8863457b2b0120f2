import assert from "node:assert/strict";
import { differentiate } from "../../compiler/autodiff.ts";
import { Builder } from "../../compiler/builder.ts";
import { compileCompute, compileFold, compileTrain, keepsTogether } from "../../compiler/compile.ts";
import { wholeShard } from "../../compiler/layout.ts";
import { lower } from "../../compiler/expression.ts";
import { lowerOps } from "../../compiler/finish.ts";
import type { Expr } from "../../ir/expr.ts";
import { dim, type Maxima, type Op, type Shape, type Value } from "../../ir/op.ts";
import type { Program } from "../../ir/program.ts";
import { MAXIMA, nll, tiny, Trace } from "./compiler_fixtures.ts";
import { interpret, keyOf, type Memory } from "./compiler_interpreter.ts";

const ROWS: Record<string, Shape> = { token: [dim("actions")], sequence: [dim("sequences")] };

/** Three sequences of 4, 1 and 2 actions and one of none, in two groups that are also two pairs. */
const LIVE: Maxima = { one: 1, tokens: 0, actions: 7, sequences: 4, groups: 2, pairs: 2, shard: 0 };
const DATA: Record<string, number[]> = {
  actionEnds: [4, 5, 7, 7],
  groupEnds: [2, 4],
  "count.token": [7],
  "count.sequence": [4],
  "count.pair": [2],
  "field.advantages": [0.5, -1, 2, 0.1, -3, 0.7, 1.2],
  "field.old": [-1.1, -0.3, -2, -0.9, -1, -0.4, -1.7],
  "field.weight": [0.3, -0.8, 1.5, 0.6],
  "field.scale": [0.75],
};
const NOW = {
  token: [-1, -0.5, -2.2, -0.7, -1.3, -0.2, -1.9],
  sequence: [0.4, -0.6, 1.1, 0.2],
};

/** The loss and its gradient by the model's output, run by the interpreter. */
function evaluate(expr: Expr, per: "token" | "sequence", now: readonly number[], live = LIVE, data = DATA) {
  let offset = 0;
  const b = new Builder(() => (offset += 64, 64)), x = b.declare("params", "now", ROWS[per]!);
  const { loss, ...metrics } = lower(b, expr, { model: { now: x }, reductions: "loss" });
  b.output("loss", loss!);
  for (const [name, v] of Object.entries(metrics)) b.output(name, v);
  const gradient = b.declare("grads", "now", ROWS[per]!);
  differentiate(b, loss!, new Map([[x, gradient]]));
  const memory: Memory = new Map([[keyOf(x), Float64Array.from(now)], [
    keyOf(gradient),
    new Float64Array(now.length),
  ]]);
  for (const [port, v] of b.placed) {
    const name = port.replace("inputs/", "");
    if (port.startsWith("inputs/")) memory.set(keyOf(v), Float64Array.from(data[name] ?? assert.fail(name)));
    if (port.startsWith("outputs/sum.")) memory.set(keyOf(v), new Float64Array(1));
  }
  interpret(lowerOps(b, b.ops), live, memory);
  const read = (v: Value) => [...memory.get(keyOf(v))!];
  return { loss: read(b.placed.get("outputs/loss")!)[0]!, gradient: read(gradient), b, memory };
}

/** Compares the gradient with central differences of the loss. */
function checkGradient(name: string, expr: Expr, per: "token" | "sequence"): void {
  const now = NOW[per], { gradient } = evaluate(expr, per, now), step = 1e-5;
  const at = (i: number, d: number) => evaluate(expr, per, now.map((x, j) => j === i ? x + d : x)).loss;
  gradient.forEach((g, i) => {
    const difference = (at(i, step) - at(i, -step)) / (2 * step);
    assert.ok(
      Math.abs(g - difference) < 1e-7 * Math.max(1, Math.abs(g)),
      `${name} [${i}]: ${g} and ${difference}`,
    );
  });
  assert.ok(gradient.some((g) => g !== 0), `${name} has a gradient`);
}

const perToken: Record<string, (t: Trace, x: number) => number> = {
  neg: (t, x) => t.op("neg", [x]),
  exp: (t, x) => t.op("exp", [x]),
  log: (t, x) => t.op("log", [t.op("square", [x])]),
  abs: (t, x) => t.op("abs", [x]),
  sqrt: (t, x) => t.op("sqrt", [t.op("neg", [x])]),
  square: (t, x) => t.op("square", [x]),
  sigmoid: (t, x) => t.op("sigmoid", [x]),
  logSigmoid: (t, x) => t.op("logSigmoid", [x]),
  add: (t, x) => t.op("add", [t.op("exp", [x]), x]),
  sub: (t, x) => t.op("sub", [t.batch("old"), x]),
  mul: (t, x) => t.op("mul", [t.op("exp", [x]), t.op("mul", [x, t.batch("scale", "batch")])]),
  div: (t, x) => t.op("div", [t.op("exp", [x]), x]),
  "div by a number": (t, x) => t.op("div", [t.constant(2), x]),
  min: (t, x) => t.op("min", [x, t.op("mul", [t.batch("old"), t.constant(1.1)])]),
  max: (t, x) => t.op("max", [t.op("mul", [t.op("square", [x]), t.constant(0.9)]), t.op("neg", [x])]),
  clamp: (t, x) => t.op("min", [t.op("max", [x, t.constant(-1.5)]), t.constant(-0.6)]),
  where: (t, x) => t.op("where", [t.op("lt", [x, t.batch("old")]), t.op("exp", [x]), t.op("square", [x])]),
  ge: (t, x) => t.op("mul", [t.op("ge", [x, t.constant(-1.2)]), x]),
  sumPerSequence: (t, x) => t.op("square", [t.op("sumPerSequence", [x], "sequence")]),
  meanPerSequence: (t, x) => t.op("exp", [t.op("meanPerSequence", [t.op("square", [x])], "sequence")]),
  last: (t, x) => t.op("square", [t.op("last", [x], "sequence")]),
  spread: (t, x) => t.op("mul", [x, t.op("spread", [t.op("meanPerSequence", [x], "sequence")], "token")]),
  atEnd: (t, x) => t.op("exp", [t.op("atEnd", [t.op("sumPerSequence", [x], "sequence")], "token")]),
};
const perSequence: Record<string, (t: Trace, x: number) => number> = {
  groupSum: (t, x) => t.op("square", [t.op("sub", [x, t.op("groupSum", [t.op("exp", [x])])])]),
  groupMean: (t, x) => t.op("square", [t.op("sub", [x, t.op("groupMean", [t.op("exp", [x])])])]),
  groupStd: (t, x) => t.op("div", [x, t.op("groupStd", [x], "sequence", { unbiased: 1, eps: 0.1 })]),
  "biased groupStd": (t, x) =>
    t.op("mul", [t.batch("weight", "sequence"), t.op("groupStd", [x], "sequence", { unbiased: 0, eps: 0 })]),
  pairs: (t, x) =>
    t.op("neg", [
      t.op("logSigmoid", [t.op("sub", [t.op("chosen", [x], "pair"), t.op("rejected", [x], "pair")])]),
    ]),
};

Deno.test("differentiate() agrees with central differences for every traced operation", () => {
  for (const [per, cases] of [["token", perToken], ["sequence", perSequence]] as const) {
    for (const [name, make] of Object.entries(cases)) {
      for (const reduction of ["mean", "sum"]) {
        const t = new Trace(), result = make(t, t.now("now", per));
        checkGradient(`${name} ${reduction}`, t.expr({ loss: t.op(reduction, [result], "batch") }), per);
      }
    }
  }
});

Deno.test("differentiate() agrees with central differences for a weighted sum of reductions", () => {
  const t = new Trace(), x = t.now("now"), scale = t.batch("scale", "batch");
  const policy = t.mean(
    t.op("mul", [t.op("exp", [t.op("sub", [x, t.batch("old")])]), t.batch("advantages")]),
  );
  const penalty = t.op("sum", [t.op("square", [t.op("meanPerSequence", [x], "sequence")])], "batch");
  const loss = t.op("sub", [t.op("mul", [penalty, scale]), t.op("div", [policy, t.constant(3)])]);
  checkGradient("weighted", t.expr({ loss, penalty, ratio: t.op("div", [policy, penalty]) }), "token");
});

Deno.test("min and max give half of the gradient to each side of a tie", () => {
  for (const kind of ["min", "max"]) {
    const t = new Trace(), x = t.now("now"), y = t.op("mul", [x, t.constant(1)]);
    const both = t.op(kind, [x, t.op("mul", [y, t.constant(3)])]);
    const { gradient } = evaluate(t.expr({ loss: t.op("sum", [both], "batch") }), "token", [
      0,
      0,
      0,
      0,
      0,
      0,
      0,
    ]);
    assert.deepEqual(gradient, [2, 2, 2, 2, 2, 2, 2], "(1 + 3) / 2");
  }
});

Deno.test("no gradient flows through detach and comparisons", () => {
  const t = new Trace(), x = t.now("now");
  const loss = t.op("sum", [t.op("mul", [x, t.op("detach", [t.op("exp", [x])])])], "batch");
  const { gradient } = evaluate(t.expr({ loss }), "token", NOW.token);
  gradient.forEach((g, i) => assert.ok(Math.abs(g - Math.exp(NOW.token[i]!)) < 1e-12));
});

Deno.test("a group of equal rewards has a deviation of exactly 0", () => {
  const t = new Trace(), r = t.batch("weight", "sequence");
  const deviation = t.op("sub", [r, t.op("groupMean", [r])]),
    std = t.op("groupStd", [r], "sequence", { unbiased: 1, eps: 1e-4 });
  let offset = 0;
  const b = new Builder(() => (offset += 64, 64));
  b.output(
    "deviation",
    lower(b, t.expr({ deviation, std }), { model: {}, reductions: "compute" }).deviation!,
  );
  const memory: Memory = new Map([
    [keyOf(b.placed.get("inputs/field.weight")!), Float64Array.of(0.1, 0.1, 0.1, 0.7)],
    [keyOf(b.placed.get("inputs/groupEnds")!), Float64Array.of(3, 4)],
  ]);
  interpret(lowerOps(b, b.ops), LIVE, memory);
  assert.deepEqual([...memory.get(keyOf(b.placed.get("outputs/deviation")!))!], [0, 0, 0, 0]);
});

Deno.test("a reduction of a loss continues over micro-batches and the last one has the loss of all", () => {
  const t = new Trace(), x = t.now("now"), old = t.batch("old");
  const loss = t.mean(t.op("mul", [t.op("exp", [t.op("sub", [x, old])]), x]));
  const expr = t.expr({ loss });
  const whole = evaluate(expr, "token", NOW.token).loss;
  // The same program on the first five actions, then on the other two with the sum that it left.
  const part = (from: number, to: number) => ({ ...DATA, "field.old": DATA["field.old"]!.slice(from, to) });
  const first = evaluate(expr, "token", NOW.token.slice(0, 5), { ...LIVE, actions: 5 }, part(0, 5));
  const { b, memory } = first, x2 = b.placed.get("params/now")!, old2 = b.placed.get("inputs/field.old")!;
  memory.set(keyOf(x2), Float64Array.from(NOW.token.slice(5))).set(
    keyOf(old2),
    Float64Array.from(part(5, 7)["field.old"]),
  );
  memory.set(keyOf(b.placed.get("grads/now")!), new Float64Array(2));
  interpret(lowerOps(b, b.ops), { ...LIVE, actions: 2 }, memory);
  assert.equal(memory.get(keyOf(b.placed.get("outputs/loss")!))![0], whole);
});

Deno.test("a clipped policy loss and its derivative are one operation", () => {
  const t = new Trace(), x = t.now("logprobs"), advantages = t.batch("advantages");
  const ratio = t.op("exp", [t.op("sub", [x, t.batch("logprobs")])]);
  const clipped = t.op("min", [t.op("max", [ratio, t.constant(0.8)]), t.constant(1.2)]);
  const loss = t.op("neg", [
    t.mean(t.op("min", [t.op("mul", [ratio, advantages]), t.op("mul", [clipped, advantages])])),
  ]);
  let offset = 0;
  const b = new Builder(() => (offset += 64, 64)), now = b.declare("params", "now", ROWS.token!);
  const lowered = lower(b, t.expr({ loss }), { model: { logprobs: now }, reductions: "loss" });
  b.output("loss", lowered.loss!);
  differentiate(b, lowered.loss!, new Map([[now, b.declare("grads", "now", ROWS.token!)]]));
  const perAction = (op: Op) =>
    op.kind === "pointwise" && JSON.stringify(op.attrs[0]) === JSON.stringify(dim("actions"));
  // One for everything, one that adds to the gradient in place.
  assert.equal(lowerOps(b, b.ops).filter(perAction).length, 2);
});

Deno.test("compileTrain() refuses a loss that ignores the model, is not reduced, or bends a reduction", () => {
  const compile = (t: Trace, outputs: Record<string, number>, fields: Trace["fields"] = t.fields) => () =>
    compileTrain(wholeShard(tiny(), "lm"), {
      maxima: MAXIMA,
      loss: t.expr(outputs),
      fields,
      recompute: "nothing",
    });
  const refused = (t: Trace, loss: number, message: RegExp, fields?: Trace["fields"]) =>
    assert.throws(
      compile(t, { loss }, fields),
      (e: Error) => e instanceof TypeError && message.test(e.message),
      `${message}`,
    );

  const ignores = new Trace();
  refused(ignores, ignores.mean(ignores.batch("old")), /Cannot trace the loss: it does not depend on `now`/);
  const stopped = new Trace();
  refused(stopped, stopped.mean(stopped.op("detach", [stopped.now("logprobs")])), /does not depend on `now`/);
  const open = new Trace();
  refused(
    open,
    open.op("neg", [open.now("logprobs")]),
    /"loss" is a value per token, end it with mean\(\) or sum\(\)/,
  );
  const bent = new Trace();
  refused(
    bent,
    bent.op("exp", [bent.mean(bent.now("logprobs"))]),
    /enters it other than linearly.*move that to compute\(\)/,
  );
  const divided = new Trace(), mean = divided.mean(divided.now("logprobs"));
  refused(divided, divided.op("div", [mean, divided.mean(divided.batch("old"))]), /other than linearly/);
  const whitened = new Trace(), now = whitened.now("logprobs");
  refused(whitened, whitened.mean(whitened.op("sub", [now, whitened.mean(now)])), /move it to compute\(\)/);
  const unknown = new Trace();
  refused(unknown, unknown.mean(unknown.now("values")), /a lm head: it has logprobs and entropy, not values/);
  const missing = new Trace();
  refused(
    missing,
    missing.mean(missing.op("mul", [missing.now("logprobs"), missing.batch("old")])),
    /"old", which is no field/,
    {},
  );
  const advantages = new Trace(), x = advantages.now("logprobs");
  const folded = advantages.op("gae", [x, x, advantages.constant(0, "sequence")], "token", {
    gamma: 1,
    lambda: 1,
  });
  refused(advantages, advantages.mean(folded), /Cannot differentiate gae/);
});

Deno.test("metrics may use reductions as they like", () => {
  const t = new Trace(), x = t.now("logprobs"), mean = t.mean(x), other = t.mean(t.op("square", [x]));
  const expr = t.expr({
    loss: mean,
    deviation: t.op("sqrt", [t.op("sub", [other, t.op("square", [mean])])]),
  });
  const o = { maxima: MAXIMA, loss: expr, fields: {}, recompute: "nothing" } as const;
  const outputs = ({ ports }: Program) =>
    Object.keys(ports).filter((name) => name.startsWith("outputs/")).sort();
  assert.deepEqual(outputs(compileTrain(wholeShard(tiny(), "lm"), o).backward), [
    "outputs/logprobs",
    "outputs/sum.0",
    "outputs/sum.1",
  ]);
  assert.deepEqual(outputs(compileFold(expr, {})), ["outputs/loss", "outputs/metric.deviation"]);
});

Deno.test("keepsTogether() asks for groups and pairs only where the loss needs them", () => {
  assert.equal(keepsTogether(nll()), "sequence");
  const pairs = new Trace(), r = pairs.now("rewards", "sequence");
  const margin = pairs.op("sub", [pairs.op("chosen", [r], "pair"), pairs.op("rejected", [r], "pair")]);
  assert.equal(keepsTogether(pairs.expr({ loss: pairs.mean(margin) })), "pair");
  const groups = new Trace(), s = groups.op("sumPerSequence", [groups.now("logprobs")], "sequence");
  assert.equal(keepsTogether(groups.expr({ loss: groups.mean(groups.op("groupMean", [s])) })), "group");
});

Deno.test("compileCompute() refuses what only a loss has and fields of another type", () => {
  const model = new Trace();
  assert.throws(
    () => compileCompute(model.expr({ x: model.now("logprobs") }), { maxima: MAXIMA, fields: {} }),
    /Cannot trace compute: .*reads "logprobs" of a model, which only a loss has/,
  );
  const wrong = new Trace(), x = wrong.batch("rewards", "sequence");
  assert.throws(
    () =>
      compileCompute(wrong.expr({ x }), {
        maxima: MAXIMA,
        fields: { rewards: { per: "token", dtype: "f32" } },
      }),
    /it reads "rewards" per sequence, which is per token/,
  );
});
