/** Traced arithmetic from the script to the device: the numbers of what its operations are defined to mean. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { compileCompute } from "../../compiler/compile.ts";
import { stepMaxima } from "../../compiler/sizes.ts";
import { Batch } from "../../engine/batch.ts";
import { Binding } from "../../engine/binding.ts";
import { compute as run } from "../../engine/compute.ts";
import type { ComputeCall } from "../../ir/graph.ts";
import { compute, perBatch, perSequence, perToken, type Tensor } from "../../mod.ts";
import { evaluate } from "../pure/expr_evaluator.ts";
import { device } from "./harness.ts";

type Any = Tensor<"token">;
/** Every number is a multiple of 1/4 of at most this size, so that float32 and double do the same without rounding. */
const MOST = 64;
const bounded = (x: Any): Any => x.clamp(-MOST, MOST);

const UNARY = ["neg", "abs", "detach"] as const, BINARY = ["add", "sub", "min", "max", "lt", "ge"] as const;
const MOVES: Readonly<Record<string, readonly string[]>> = {
  token: ["sumPerSequence", "last", "sum"],
  sequence: ["spread", "atEnd", "groupSum", "chosen", "rejected", "sum"],
  pair: ["sum"],
  batch: [],
};
type Step = readonly [kind: number, of: number, with_: number, way: number];

/** One more value of what there is. */
function next(pool: readonly Any[], [kind, i, j, k]: Step): Any | undefined {
  const x = pool[i % pool.length]!,
    fitting = pool.filter((u) => u.per === x.per || (u.per as string) === "batch");
  const y = fitting[j % fitting.length]!, z = fitting[k % fitting.length]!;
  if (kind === 0) return x[UNARY[k % UNARY.length]!]();
  if (kind === 1) return bounded(x[BINARY[k % BINARY.length]!](y));
  if (kind === 2) return x.lt(0.5).where(y, z);
  const ways = MOVES[x.per]!, way = ways[k % ways.length];
  if (way === undefined) return undefined;
  const of = way === "chosen" || way === "rejected"
    ? (x as unknown as Tensor<"sequence">).pairs()[way]
    : undefined;
  return (of as Any | undefined) ?? bounded((x as unknown as Record<string, () => Any>)[way]!());
}

/** Lengths of sequences in groups of a size, and steps of a program. */
const programs = fc.record({
  group: fc.constantFrom(2, 4),
  groups: fc.integer({ min: 1, max: 6 }),
  steps: fc.array(fc.tuple(fc.nat(3), fc.nat(), fc.nat(), fc.nat()), { minLength: 1, maxLength: 25 }),
  seed: fc.nat(),
});

Deno.test("compiled arithmetic gives the numbers of its definition, over any sequences and groups", async () => {
  const property = fc.asyncProperty(programs, async ({ group, groups, steps, seed }) => {
    const flow = compute("c", { x: perToken, y: perToken, s: perSequence, b: perBatch }, (batch) => {
      const pool = Object.values(batch) as unknown as Any[];
      for (const step of steps) {
        const made = next(pool, step);
        if (made) pool.push(made);
      }
      return Object.fromEntries(pool.slice(-3).map((v, i) => [`out${i}`, v])) as { readonly out0: Any };
    });
    const call = { id: "c", ...flow.drafts[0]!.call } as ComputeCall, { expr } = call;
    // Whole numbers from a counter; no sequence is empty, and neighbours differ in length.
    const draw = (n: number, most: number) => Math.floor(Math.abs(Math.sin(seed % 1000 + 7 * n)) * most);
    const sequences = group * groups, lengths = Array.from({ length: sequences }, (_, i) => 1 + draw(i, 40));
    const actions = lengths.reduce((a, b) => a + b, 0);
    const numbers = (n: number, from: number) =>
      Array.from({ length: n }, (_, i) => draw(from + i, 33) / 4 - 4);
    const data = {
      x: numbers(actions, 1),
      y: numbers(actions, 5000),
      s: numbers(sequences, 9000),
      b: numbers(1, 9999),
    };
    const expected = evaluate(expr, { lengths, group, batch: data });

    const batch = new Batch(
      sequences,
      group,
      Array.from({ length: groups }, (_, index) => ({ index, fields: {} })),
    );
    batch.tokens.set("tokens", {
      ids: lengths.map((n) => new Int32Array(n + 1)),
      actions: lengths.map((n) => Int32Array.from({ length: n }, (_, i) => i + 1)),
      temperature: 1,
      versions: lengths.map(() => -1),
    });
    const fields = {
      x: { per: "token", dtype: "f32", of: "tokens" },
      y: { per: "token", dtype: "f32", of: "tokens" },
      s: { per: "sequence", dtype: "f32" },
      b: { per: "batch", dtype: "f32" },
    } as const;
    for (const [name, values] of Object.entries(data)) {
      batch.putFlat(name, fields[name as keyof typeof fields], Float32Array.from(values));
    }
    const sizes = { sequences, group, longestPrompt: 0, longest: 41, longestResponse: 40 };
    const binding = new Binding(device(), compileCompute(expr, { maxima: stepMaxima(sizes), fields }), {});
    try {
      const made = await run(binding, call, batch, new Map());
      for (const [name, values] of Object.entries(expected)) {
        const per = expr.ops[expr.outputs[name]!]!.per;
        // A number that fits all is one number where it is defined and as many as there are where it is stored.
        const n = { token: actions, sequence: sequences, pair: sequences / 2, batch: 1 }[per];
        const all = values.length === 1 ? new Array<number>(n).fill(values[0]!) : values;
        assert.deepEqual([...made[name]!].map((v) => v + 0), all.map((v) => v + 0), name);
      }
    } finally {
      binding.dispose();
    }
  });
  await fc.assert(property, { numRuns: 200, seed: 3 });
});
