import assert from "node:assert/strict";
import * as fc from "fast-check";
import {
  compute,
  perBatch,
  perPair,
  perSequence,
  perToken,
  policyLoss,
  rewardLoss,
  state,
  type Tensor,
  valueLoss,
} from "../../dsl/mod.ts";
import { exprViolations, lossViolations } from "../../ir/expr_rules.ts";
import type { Expr } from "../../ir/expr.ts";
import type { ComputeCall } from "../../ir/graph.ts";
import { evaluate } from "./expr_evaluator.ts";

const exprOf = (flow: { readonly drafts: readonly { readonly call: unknown }[] }): Expr =>
  (flow.drafts[0]!.call as ComputeCall).expr;
const kinds = (expr: Expr): string[] => expr.ops.map((op) => op.op);

Deno.test("compute() records operations in order, each once", () => {
  const expr = exprOf(compute("c", { rewards: perSequence }, ({ rewards }) => ({
    twice: rewards.mul(2).add(rewards.mul(2)),
    half: rewards.mul(0.5),
  })));
  assert.deepEqual(expr, {
    ops: [
      { op: "input", field: "rewards", from: "batch", per: "sequence" },
      { op: "const", value: 2, per: "batch" },
      { op: "mul", args: [0, 1], per: "sequence" },
      { op: "add", args: [2, 2], per: "sequence" },
      { op: "const", value: 0.5, per: "batch" },
      { op: "mul", args: [0, 4], per: "sequence" },
    ],
    outputs: { twice: 3, half: 5 },
  });
});

Deno.test("a trace keeps every declared field and drops what no result needs", () => {
  const loss = policyLoss({ advantages: perToken }, (now) => {
    now.entropy.exp();
    return now.logprobs.mean();
  });
  assert.deepEqual(kinds(loss.expr), ["input", "input", "mean"]);
  assert.deepEqual(loss.expr.ops.map((op) => op.op === "input" && op.field), [
    "logprobs",
    "advantages",
    false,
  ]);
});

Deno.test("every operation means what the evaluator computes", () => {
  const data = {
    lengths: [2, 1],
    group: 2,
    batch: { x: [0.5, -2, 3], s: [1, 4], b: [10] },
    state: { k: 7 },
  };
  const reads = { x: perToken, s: perSequence, b: perBatch } as const;
  const values = evaluate(
    exprOf(compute("c", reads, ({ x, s, b }, { k }) => ({
      add: x.add(1),
      sub: x.sub(1),
      rsub: x.rsub(1),
      mul: x.mul(b),
      div: b.div(x),
      min: x.min(0),
      max: x.max(0),
      neg: x.neg(),
      exp: s.log().exp(),
      abs: x.abs(),
      sqrt: s.sqrt(),
      square: x.square(),
      sigmoid: x.sub(x).sigmoid(),
      logSigmoid: x.sub(x).logSigmoid().exp(),
      clamp: x.clamp(-1, 1),
      where: x.lt(0).where(b, x),
      ge: x.ge(0.5),
      detach: x.detach(),
      total: x.sum(),
      average: s.mean(),
      perSequence: x.sumPerSequence(),
      meanPerSequence: x.meanPerSequence(),
      last: x.last(),
      spread: s.spread(),
      atEnd: s.atEnd(),
      groupSum: s.groupSum(),
      groupMean: s.groupMean(),
      groupStd: s.groupStd({ unbiased: false, eps: 1 }),
      chosen: s.pairs().chosen,
      rejected: s.pairs().rejected,
      fixed: x.sum().div(100),
      state: k.mul(2),
    }), { states: [state("k", 1)] })),
    data,
  );
  const close = (name: string, expected: readonly number[]) =>
    values[name]!.forEach((v, i) =>
      assert.ok(Math.abs(v - expected[i]!) < 1e-12, `${name}: ${values[name]} and ${expected}`)
    );
  const expected: Record<string, readonly number[]> = {
    add: [1.5, -1, 4],
    sub: [-0.5, -3, 2],
    rsub: [0.5, 3, -2],
    mul: [5, -20, 30],
    div: [20, -5, 10 / 3],
    min: [0, -2, 0],
    max: [0.5, 0, 3],
    neg: [-0.5, 2, -3],
    exp: [1, 4],
    abs: [0.5, 2, 3],
    sqrt: [1, 2],
    square: [0.25, 4, 9],
    sigmoid: [0.5, 0.5, 0.5],
    logSigmoid: [0.5, 0.5, 0.5],
    clamp: [0.5, -1, 1],
    where: [0.5, 10, 3],
    ge: [1, 0, 1],
    detach: [0.5, -2, 3],
    total: [1.5],
    average: [2.5],
    perSequence: [-1.5, 3],
    meanPerSequence: [-0.75, 3],
    last: [-2, 3],
    spread: [1, 1, 4],
    atEnd: [0, 1, 4],
    groupSum: [5, 5],
    groupMean: [2.5, 2.5],
    groupStd: [2.5, 2.5],
    chosen: [1],
    rejected: [4],
    fixed: [0.015],
    state: [14],
  };
  assert.deepEqual(Object.keys(values), Object.keys(expected));
  for (const [name, numbers] of Object.entries(expected)) {
    assert.equal(values[name]!.length, numbers.length, name);
    close(name, numbers);
  }
});

Deno.test("random arithmetic is well-formed", () => {
  const unary = ["neg", "exp", "abs", "square", "sigmoid", "detach"] as const;
  const binary = ["add", "sub", "mul", "min", "max", "lt"] as const;
  const move = {
    token: ["sumPerSequence", "last", "mean"],
    sequence: ["spread", "atEnd", "groupMean", "mean"],
  } as const;
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(2), fc.nat(), fc.nat(), fc.nat()), { maxLength: 30 }), (steps) => {
      const expr = exprOf(compute("c", { x: perToken, s: perSequence, b: perBatch }, (batch) => {
        const pool = Object.values(batch) as unknown as Tensor<"token">[];
        for (const [kind, i, j, k] of steps) {
          const t = pool[i % pool.length]!,
            fitting = pool.filter((u) => u.per === t.per || (u.per as string) === "batch");
          const ways = move[t.per as keyof typeof move];
          if (kind === 0) pool.push(t[unary[k % unary.length]!]());
          else if (kind === 1) pool.push(t[binary[k % binary.length]!](fitting[j % fitting.length]!));
          else if (ways) pool.push(t[ways[k % ways.length] as "mean"]() as never);
        }
        return { y: pool.at(-1)! };
      }));
      assert.deepEqual(exprViolations(expr), []);
    }),
  );
});

Deno.test("a loss that ignores now is refused", () => {
  const message =
    /^TypeError: Cannot trace the policy loss: it does not depend on `now` .*\(dsl_trace_test\.ts:\d+\)$/;
  type Given = Parameters<typeof policyLoss<{ readonly advantages: typeof perToken }, Tensor<"batch">>>[1];
  const refused = (f: Given) =>
    assert.throws(() => policyLoss({ advantages: perToken }, f), (e) => message.test(String(e)));
  refused((_, b) => b.advantages.mean());
  refused((now) => now.logprobs.detach().mean());
  refused((now, b) => now.logprobs.lt(0).where(b.advantages, 0).mean());
});

Deno.test("a loss may use batch reductions linearly only", () => {
  const nonlinear =
    /a mean\(\) or sum\(\) of the mini-batch enters it other than linearly, .* move that to compute\(\)/;
  const loss = (f: (x: Tensor<"batch">) => Tensor<"batch">) =>
    policyLoss({}, (now) => f(now.logprobs.mean()));
  for (
    const fine of [
      (x: Tensor<"batch">) => x.neg().mul(2).add(x).div(3).sub(1).rsub(1),
      (x: Tensor<"batch">) => x.add(x),
    ]
  ) {
    assert.deepEqual(lossViolations(loss(fine).expr), []);
  }
  const wrong: ((x: Tensor<"batch">) => Tensor<"batch">)[] = [
    (x) => x.exp(),
    (x) => x.mul(x),
    (x) => x.square(),
    (x) => x.max(0),
    (x) => x.rsub(1).div(x),
    (x) => x.lt(0).where(x, 0),
  ];
  for (const f of wrong) assert.throws(() => loss(f), nonlinear);
});

Deno.test("a loss may not spread a batch reduction over tokens", () => {
  assert.throws(
    () =>
      policyLoss(
        { advantages: perToken },
        (now, b) => now.logprobs.mul(b.advantages.sub(b.advantages.mean())).mean(),
      ),
    /uses a mean\(\) or sum\(\) of the mini-batch in every token, which is known only after the last micro-batch/,
  );
});

Deno.test("metrics may use batch reductions as they like, and a batch field is no reduction", () => {
  const loss = policyLoss({ scale: perBatch }, (now, { scale }) => ({
    loss: now.logprobs.mul(scale.exp()).mean().div(scale.square()),
    metrics: { perplexity: now.logprobs.mean().neg().exp() },
  }));
  assert.deepEqual(loss.metrics, ["perplexity"]);
});

Deno.test("a metric must be one number", () => {
  assert.throws(
    // @ts-expect-error a metric per token
    () => policyLoss({}, (now) => ({ loss: now.logprobs.mean(), metrics: { entropy: now.entropy } })),
    /"entropy" is a value per token, end it with mean\(\) or sum\(\)/,
  );
});

Deno.test("a loss returns the loss, alone or with metrics", () => {
  type Now = { readonly logprobs: Tensor<"token"> };
  const loss = (f: (now: Now) => unknown) => () => policyLoss({}, f as (now: Now) => Tensor<"batch">);
  const message =
    /Cannot trace the policy loss: return the loss, or \{ loss, metrics \}, and be not async \(dsl_trace_test/;
  for (const f of [() => undefined, () => 1, () => ({}), () => Promise.resolve()]) {
    assert.throws(loss(f), message);
  }
  assert.throws(
    loss((now) => ({ loss: now.logprobs.mean(), metrics: { loss: now.logprobs.mean() } })),
    /a metric is called "loss", which is the loss itself/,
  );
  assert.deepEqual(policyLoss({}, (now) => ({ loss: now.logprobs.mean() })).metrics, []);
});

Deno.test("losses of values and rewards see their own outputs", () => {
  assert.equal(valueLoss({}, (now) => now.values.square().mean()).head, "value");
  const loss = rewardLoss({ margin: perPair }, (now, { margin }) => {
    const { chosen, rejected } = now.rewards.pairs();
    return chosen.sub(rejected).sub(margin).logSigmoid().mean().neg();
  });
  assert.deepEqual(loss.expr.ops.at(-1), { op: "neg", args: [7], per: "batch" });
});

Deno.test("a tensor of another trace is refused", () => {
  let leaked: Tensor<"sequence"> | undefined;
  compute("first", { rewards: perSequence }, ({ rewards }) => ({ y: leaked = rewards.exp() }));
  assert.throws(
    () => compute("second", { rewards: perSequence }, ({ rewards }) => ({ y: rewards.add(leaked!) })),
    /Cannot add tensors of two traces: build both inside one function/,
  );
  assert.throws(
    () => compute("third", { rewards: perSequence }, () => ({ y: leaked! })),
    /Cannot trace compute "third": "y" is a tensor of another trace/,
  );
});

Deno.test("a tensor cannot be used as a number", () => {
  assert.throws(
    // @ts-expect-error a tensor has no number yet
    () => compute("c", { rewards: perSequence }, ({ rewards }) => ({ y: rewards.mul(rewards * 2) })),
    /Cannot read the value of a traced tensor/,
  );
});

Deno.test("constants must be finite", () => {
  for (const value of [NaN, Infinity, -Infinity]) {
    assert.throws(
      () => compute("c", { rewards: perSequence }, ({ rewards }) => ({ y: rewards.mul(value) })),
      {
        name: "RangeError",
        message:
          `Cannot trace the constant ${value}: it is not finite, check the options of the loss or compute`,
      },
    );
  }
});

Deno.test("compute() returns tensors by name", () => {
  const c = (f: unknown) => () => compute("c", { rewards: perSequence }, f as () => Record<string, never>);
  assert.throws(c(() => 1), /the function must return its results by name/);
  assert.throws(c(() => null), /the function must return its results by name/);
  assert.throws(
    c(() => Promise.resolve({})),
    /the function must return its results by name, .* and not be async/,
  );
  assert.throws(
    c(({ rewards }: { rewards: unknown }) => rewards),
    /the function must return its results by name/,
  );
  assert.throws(c(() => ({})), /the function returns nothing, return a field or a state/);
  assert.throws(c(() => ({ y: 1 })), /"y" is not a tensor but number/);
  assert.throws(c(({ rewards }: { rewards: unknown }) => ({ "a b": rewards })), /Cannot name a field "a b"/);
});

Deno.test("compute() writes states beside fields", () => {
  const mean = state("mean", 0.5);
  const flow = compute("c", { rewards: perSequence }, ({ rewards }, { mean }) => ({
    centred: rewards.sub(mean),
    mean: mean.mul(0.9).add(rewards.mean().mul(0.1)),
  }), { states: [mean] });
  const [draft] = flow.drafts, call = draft!.call as unknown as ComputeCall;
  assert.deepEqual(call.states, { mean: "state.mean" });
  assert.deepEqual(call.writes, { centred: "centred" });
  assert.deepEqual(Object.keys(call.expr.outputs), ["centred", "state.mean"]);
  assert.deepEqual(draft!.states, { mean: 0.5 });
  assert.throws(
    () => compute("c", { mean: perSequence }, (b) => ({ x: b.mean }), { states: [mean] }),
    /mean is a field and a state, rename one/,
  );
});

Deno.test("a call that works per token reads its token field, others do not", () => {
  const reads = (flow: { readonly drafts: readonly { readonly call: unknown }[] }) =>
    (flow.drafts[0]!.call as ComputeCall).reads;
  const spread = compute("c", { rewards: perSequence }, ({ rewards }) => ({ advantages: rewards.spread() }));
  assert.deepEqual(reads(spread), { tokens: "tokens", rewards: "rewards" });
  assert.deepEqual(spread.writes, { advantages: perToken });
  assert.deepEqual(reads(compute("c", { rewards: perSequence }, ({ rewards }) => ({ x: rewards.exp() }))), {
    rewards: "rewards",
  });
});
