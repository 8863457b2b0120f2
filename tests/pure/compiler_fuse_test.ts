import assert from "node:assert/strict";
import fc from "fast-check";
import { Builder } from "../../compiler/builder.ts";
import { fuse, MAX_REGISTERS } from "../../compiler/fuse.ts";
import { lowerOps } from "../../compiler/finish.ts";
import { printOps } from "../../compiler/print.ts";
import { dim, type Maxima, type Op, type PointwiseKind, type Value } from "../../ir/op.ts";
import { interpret, keyOf, type Memory } from "./compiler_interpreter.ts";

const live: Maxima = { one: 1, tokens: 5, actions: 5, sequences: 3, groups: 1, pairs: 1, shard: 0 };
const builder = () => {
  let offset = 0;
  return new Builder(() => (offset += 64, 64));
};

Deno.test("fuse() makes one operation of a clipped ratio and inlines its constants", () => {
  const b = builder(), x = b.input("now", [dim("actions")]), y = b.input("old", [dim("actions")]);
  const ratio = b.pointwise("exp", b.pointwise("sub", x, y));
  b.output("clipped", b.pointwise("min", b.pointwise("max", ratio, b.fill(0.8)), b.fill(1.2)));
  assert.equal(
    printOps(lowerOps(b, b.ops)),
    "outputs/clipped [actions] = pointwise(inputs/now, inputs/old) " +
      "r2=sub r0 r1; r3=exp r2; r4=constant 0.8; r5=max r3 r4; r6=constant 1.2; r7=min r5 r6 → r7",
  );
});

Deno.test("fuse() computes an equal instruction once and keeps −0 apart from 0", () => {
  const b = builder(), x = b.input("x", [dim("actions")]);
  b.output("y", b.pointwise("mul", b.pointwise("exp", x), b.pointwise("exp", x)));
  assert.match(printOps(lowerOps(b, b.ops)), /r1=exp r0; r2=mul r1 r1 → r2$/);
  const c = builder(), z = c.input("z", [dim("actions")]);
  c.output("y", c.pointwise("where", z, c.fill(0), c.fill(-0)));
  assert.equal(lowerOps(c, c.ops)[0]!.attrs[2], 3, "two constants and where");
});

Deno.test("fuse() does not merge an operation that works in place", () => {
  const b = builder(), x = b.input("x", [dim("actions")]), g = b.declare("grads", "x", [dim("actions")]);
  b.sum(g, b.pointwise("neg", x), b.value("x", g.shape, { place: g.place }));
  const kinds = fuse(b.ops).map((op) => op.attrs[2]);
  assert.deepEqual(kinds, [1, 1]);
});

/** A random chain of pointwise operations with reductions and broadcasts between. */
function randomProgram(choices: readonly (readonly [number, number, number])[]) {
  const b = builder(), n = [dim("actions")] as const;
  const vectors: Value[] = [b.input("x", n), b.input("y", n)],
    scalars: Value[] = [b.input("s", [1]), b.fill(0.5)];
  const kinds: readonly PointwiseKind[] = ["add", "sub", "mul", "min", "max", "lt", "neg", "sigmoid"];
  choices.forEach(([kind, i, j], step) => {
    const x = vectors[i % vectors.length]!,
      y = [...vectors, ...scalars][j % (vectors.length + scalars.length)]!;
    if (kind % 7 === 6) scalars.push(b.pointwise("mul", b.total(x), scalars[j % scalars.length]!));
    else {
      const op = kinds[kind % kinds.length]!;
      vectors.push(op === "neg" || op === "sigmoid" ? b.pointwise(op, x) : b.pointwise(op, x, y));
    }
    if (step % 3 === 2) b.output(`o${step}`, vectors.at(-1)!);
  });
  b.output("last", vectors.at(-1)!);
  b.output("scalar", scalars.at(-1)!);
  return b;
}
const memoryOf = (b: Builder): Memory => {
  const data: Record<string, number[]> = { x: [0.5, -1, 2, 0.1, -3], y: [1, 1, -0.5, 4, 0.25], s: [-0.75] };
  return new Map(
    Object.entries(data).map((
      [name, values],
    ) => [keyOf(b.placed.get(`inputs/${name}`)!), Float64Array.from(values)]),
  );
};
const outputsOf = (b: Builder, memory: Memory) =>
  [...b.placed].filter(([port]) => port.startsWith("outputs/")).map((
    [port, v],
  ) => [port, [...memory.get(keyOf(v))!]]);
const choices = fc.array(fc.tuple(fc.nat(1000), fc.nat(1000), fc.nat(1000)), {
  minLength: 1,
  maxLength: 120,
});

Deno.test("lowerOps() never changes a result", () => {
  fc.assert(
    fc.property(choices, (c) => {
      const b = randomProgram(c), plain: Op[] = [...b.ops];
      const copies = b.pinned.map(([v, at]): Op => ({
        kind: "copy",
        ins: [v],
        outs: [at],
        attrs: [v.shape[0] ?? 1],
      }));
      const expected = outputsOf(b, interpret([...plain, ...copies], live, memoryOf(b)));
      assert.deepEqual(outputsOf(b, interpret(lowerOps(b, plain), live, memoryOf(b))), expected);
    }),
    { numRuns: 200 },
  );
});

Deno.test("fuse() keeps every operation within the registers of the kernel", () => {
  fc.assert(
    fc.property(choices, (c) => {
      const b = randomProgram(c);
      for (const op of fuse(b.ops).filter((op) => op.kind === "pointwise")) {
        assert.ok((op.attrs[1] as number) + (op.attrs[2] as number) <= MAX_REGISTERS);
      }
    }),
    { numRuns: 100 },
  );
});
