import assert from "node:assert/strict";
import { Builder } from "../../compiler/builder.ts";
import { lowerOps } from "../../compiler/finish.ts";
import { checkProgram } from "../../compiler/specification.ts";
import { dim, type Op, type Segment, SEGMENTS, type Value } from "../../ir/op.ts";
import { MAXIMA } from "./compiler_fixtures.ts";

const bytes = Object.fromEntries(SEGMENTS.map((s) => [s, 4096])) as Record<Segment, number>;
const check = (ops: readonly Op[], limits = bytes) =>
  checkProgram("a test", ops, (v) => v.place ?? { segment: "arena", offset: 64 * v.id }, limits, MAXIMA);

/** y = −x, then y + y into an output: a program without violations, and its parts. */
function sound() {
  const b = new Builder(() => 256), x = b.input("x", [dim("actions")]), y = b.pointwise("neg", x);
  const out = b.declare("outputs", "y", [dim("actions")]);
  b.sum(y, y, out);
  return { b, x, y, out };
}
const place = (b: Builder, segment: Segment, name: string): Value => b.declare(segment, name, [4]);

Deno.test("checkProgram() accepts a sound program", () => check(sound().b.ops));

Deno.test("checkProgram() finds each violation and names the operation and the value", () => {
  const cases: [string, (s: ReturnType<typeof sound>) => readonly Op[], RegExp][] = [
    [
      "order",
      ({ b }) => b.ops.toReversed(),
      /Cannot compile a test: operation 0 \(pointwise\) reads neg before it is made/,
    ],
    ["single assignment", ({ b }) => [...b.ops, b.ops[0]!], /makes neg a second time/],
    [
      "operand count",
      ({ b }) => b.ops.map((op) => ({ ...op, ins: op.ins.slice(1) })),
      /has 0 inputs and 1 outputs, not 1 and 1/,
    ],
    [
      "size attributes",
      ({ b }) => b.ops.map((op) => ({ ...op, attrs: [...op.attrs, dim("tokens")] })),
      /attribute \d+ is no size/,
    ],
    ["overwritten", ({ b, x }) => {
      const again = b.value("again", x.shape, { place: x.place });
      return [{ kind: "copy", ins: [x], outs: [again], attrs: [dim("actions")] }, ...b.ops];
    }, /reads x after it was overwritten/],
    ["overwritten in part", ({ b, x }) => {
      const part = b.value("part", [1], { place: { ...x.place!, offset: x.place!.offset + 64 } });
      return [{ kind: "fill", ins: [], outs: [part], attrs: [1, 0] }, ...b.ops];
    }, /reads x after it was overwritten/],
    ["gathered activations", ({ b, x }) => {
      b.emit("allGatherRows", [x], [place(b, "params", "w")], [4, 1, 3]);
      return b.ops;
    }, /writes w, which only the optimizer may/],
    ["reduced activations", ({ b, x }) => {
      b.emit("reduceScatterRows", [x], [place(b, "grads", "w")], [4, 1, 3]);
      return b.ops;
    }, /overwrites the gradient w instead of adding to it/],
    ["frozen parameters", ({ b }) => {
      b.emit("fill", [], [place(b, "params", "w")], [4, 0]);
      return b.ops;
    }, /writes w, which only the optimizer may/],
    ["lost gradient", ({ b }) => {
      b.emit("fill", [], [place(b, "grads", "w")], [4, 0]);
      return b.ops;
    }, /overwrites the gradient w instead of adding to it/],
    ["running sum", ({ b, x }) => {
      b.emit("total", [x, place(b, "outputs", "sum.0")], [place(b, "outputs", "elsewhere")], [
        dim("actions"),
        1,
      ]);
      return b.ops;
    }, /continues sum\.0 outside its place/],
  ];
  for (const [name, make, message] of cases) {
    assert.throws(() => check(make(sound())), (e: Error) => message.test(e.message), name);
  }
  assert.throws(
    () => check(sound().b.ops, { ...bytes, inputs: 128 }),
    /uses x, which ends past the inputs segment/,
  );
});

Deno.test("checkProgram() accepts what ranks of an optimizer do, and views of what they wrote", () => {
  const b = new Builder(() => 256);
  const at = (segment: Segment, offset: number, ...shape: [number, number]) =>
    b.value(segment, shape, { place: { segment, offset } });
  b.emit("reduceScatterRows", [at("grads", 0, 8, 16)], [at("grads", 256, 4, 16)], [8, 16, 3]);
  b.allReduce(at("grads", 256, 4, 16), "tp");
  b.output("sum", b.total(at("grads", 320, 1, 16)));
  b.emit("allGatherRows", [at("params", 256, 4, 16)], [at("params", 0, 8, 16)], [8, 16, 3]);
  check(lowerOps(b, b.ops));
});

Deno.test("checkProgram() lists every violation at once", () => {
  const { b } = sound(), ops = [...b.ops.toReversed(), b.ops[0]!];
  assert.throws(() => check(ops), (e: Error) => e.message.split("; ").length === 3);
});
