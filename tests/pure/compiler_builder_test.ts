import assert from "node:assert/strict";
import { Builder } from "../../compiler/builder.ts";
import { size } from "../../compiler/shape.ts";
import { dim } from "../../ir/op.ts";

const builder = () => new Builder(() => 64);
const weight = (b: Builder, outputs: number, inputs: number, panels = true) => ({
  value: b.declare(
    "params",
    `w${outputs}x${inputs}`,
    panels ? [Math.ceil(outputs / 16), inputs, 16] : [outputs, inputs],
  ),
  outputs,
  inputs,
  panels,
});

Deno.test("size() multiplies dims and keeps the symbol", () => {
  assert.deepEqual(size([dim("tokens", 3), 4, 5]), dim("tokens", 60));
  assert.deepEqual(size([2, 3]), dim("one", 6));
  assert.deepEqual(size([]), dim("one", 1));
});

Deno.test("Builder gives results the shapes of their operations", () => {
  const b = builder(),
    ids = b.input("ids", [dim("tokens")], "i32"),
    x = b.embedding(ids, weight(b, 40, 8, false));
  assert.deepEqual(x.shape, [dim("tokens"), 8]);
  assert.deepEqual(b.matmul(x, weight(b, 24, 8)).shape, [dim("tokens"), 24]);
  const rows = b.gatherRows(x, b.input("rows", [dim("actions")], "i32"));
  assert.deepEqual(rows.shape, [dim("actions"), 8]);
  assert.deepEqual(b.gatherRows(ids, b.input("rows", [dim("actions")], "i32")).dtype, "i32");
  const perHead = b.rmsnorm(x, b.declare("params", "norm", [4]), 1e-6);
  assert.deepEqual(perHead.shape, x.shape);
  assert.deepEqual(
    b.ops.at(-1)!.attrs,
    [dim("tokens", 2), 4, 1e-6],
    "two heads of four are two rows a token",
  );
});

Deno.test("Builder refuses operands that do not fit and names them with their shapes", () => {
  const b = builder(), x = b.input("x", [dim("tokens"), 8]), actions = b.input("actions", [dim("actions")]);
  const cases: [() => unknown, RegExp][] = [
    [
      () => b.matmul(x, weight(b, 4, 9)),
      /Cannot multiply: x \[tokens, 8\], w4x9 \[1, 9, 16\]: the inner dims differ/,
    ],
    [() => b.addBias(x, b.input("bias", [7])), /Cannot add a bias: .* the widths differ/],
    [() => b.rmsnorm(x, b.input("norm", [3]), 1e-6), /Cannot normalise/],
    [() => b.rope(x, b.input("p", [dim("tokens")], "i32"), b.input("t", [9, 6])), /not a number of heads/],
    [() => b.swiglu(x, actions), /Cannot gate/],
    [
      () => b.pointwise("add", x, actions),
      /Cannot apply add: x \[tokens, 8\], actions \[actions\]: the sizes differ/,
    ],
    [() => b.broadcast(actions, x.shape), /it is no scalar/],
    [
      () =>
        b.attention(x, x, x, b.input("ends", [dim("sequences")], "i32"), {
          heads: 2,
          kvHeads: 1,
          headDim: 4,
          window: 0,
        }),
      /2 and 1 heads of 4 are wanted/,
    ],
  ];
  for (const [make, message] of cases) {
    assert.throws(make, (e: Error) => e instanceof RangeError && message.test(e.message));
  }
});

Deno.test("Builder.declare() refuses a name twice and input() gives the same value", () => {
  const b = builder();
  assert.equal(b.input("ids", [4]), b.input("ids", [4]));
  b.declare("outputs", "loss", [1]);
  assert.throws(
    () => b.declare("outputs", "loss", [1]),
    /Cannot declare outputs\/loss: it is declared already/,
  );
});

Deno.test("Builder places declared values one after another on cache lines", () => {
  const b = new Builder((v) => 64 * Math.ceil(v.shape.reduce<number>((n, d) => n * (d as number), 4) / 64));
  const [x, y] = [b.input("x", [17]), b.input("y", [1])];
  assert.deepEqual([x.place!.offset, y.place!.offset, b.segmentBytes("inputs")], [0, 128, 192]);
});
