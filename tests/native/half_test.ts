/** bf16 operands: an operation gives what the fp32 one gives on the same numbers, rounded when it is stored. */
import assert from "node:assert/strict";
import type { OpKind } from "../../ir/op.ts";
import { storedAs, widened } from "../../engine/half.ts";
import { DeviceSegment } from "../../ffi/device.ts";
import { type Case, cases } from "./cases.ts";
import { HALF_KINDS, halfCases } from "./half_cases.ts";
import { assertSameBits, type Data, device, floats, generator, normal, run } from "./harness.ts";

/** A case with the same numbers in fp32. */
const widenedCase = (c: Case): Case => {
  const wide = (data: Data): Data =>
    data instanceof Uint16Array ? widened(data) as Float32Array<ArrayBuffer> : data;
  return {
    ...c,
    ins: c.ins.map(wide),
    outs: c.outs.map((out) => typeof out === "number" || "inPlace" in out ? out : wide(out)),
  };
};
const execute = (c: Case) => run(c.kind, c.ins, c.outs, c.attrs, 2, c.updates);

/** Whether an output of a case is stored in bf16. */
const isHalf = ({ ins, outs }: Case, i: number): boolean => {
  const out = outs[i]!;
  return (typeof out !== "number" && "inPlace" in out ? ins[out.inPlace] : out) instanceof Uint16Array;
};

/** What stands for several operations rounds between them: op_joined_test.ts has what they give in bf16. */
const JOINED: readonly OpKind[] = ["addRmsnorm", "ropes", "ropeKvWrite", "gatedMatmul"];

Deno.test("every operation with bf16 operands gives the fp32 result of the same numbers, rounded", async () => {
  const all = halfCases(cases());
  assert.deepEqual(new Set(all.map((c) => c.kind)), new Set(HALF_KINDS));
  for (const c of all.filter(({ kind }) => !JOINED.includes(kind))) {
    const half = await execute(c), single = await execute(widenedCase(c));
    half.forEach((out, i) => {
      const expected = isHalf(c, i) ? widened(storedAs(single[i]!, "bf16")) : single[i]!;
      assertSameBits(
        out,
        expected as Float32Array<ArrayBuffer>,
        `${c.kind} (${c.attrs.slice(0, 6)}), output ${i}`,
      );
    });
  }
});

Deno.test("adamw() updates a master copy to the bit as it does an fp32 parameter, and rounds what programs read", async () => {
  const next = generator(3), n = 1000, lr = 1e-6;
  const [p, g, m] = [normal(n, next), normal(n, next), normal(n, next, 0.1)], v = m.map((x) => x * x);
  const ins = [p, g, m, v, floats(lr, 0.1, 0.05), floats(1)],
    places = [{ inPlace: 0 }, { inPlace: 2 }, { inPlace: 3 }];
  const attrs = [n, 0.9, 0.95, 1e-8, 0.1, 0];
  const [alone] = await run("adamw", ins, places, [...attrs, 0]);
  const [master, , , rounded] = await run("adamw", ins, [...places, new Uint16Array(n)], [...attrs, 1]);
  assertSameBits(master!, alone!, "master copy");
  assertSameBits(
    rounded!,
    widened(storedAs(master!, "bf16")) as Float32Array<ArrayBuffer>,
    "what programs read",
  );
  assert.ok(p.some((x, i) => x !== master![i]), "a step of 1e-6 is kept");
  const kept = new Uint16Array(n).fill(0x3f80), broken = [...ins.slice(0, 5), floats(NaN)];
  const [, , , after] = await run("adamw", broken, [...places, kept], [...attrs, 1]);
  assert.ok(after!.every((x) => x === 1), "nothing is written where the norm is not finite");
});

Deno.test("a copy that widens is whole behind one of any size in its list", async () => {
  const count = 1 << 19, next = generator(5), numbers = normal(count, next);
  const bits = storedAs(numbers, "bf16") as Uint16Array<ArrayBuffer>, odd = Uint16Array.of(1, 2, 3);
  using from = new DeviceSegment(64 + 2 * count);
  using to = new DeviceSegment(64 + 4 * count);
  from.write(0, odd);
  from.write(64, bits);
  const move = { from, to, count: 1, fromStride: 0, toStride: 0 };
  await device().copy([
    { ...move, fromOffset: 0, toOffset: 0, bytes: 6 },
    { ...move, fromOffset: 64, toOffset: 64, bytes: 4 * count, widen: true },
  ]).done;
  assert.deepEqual([...to.read(0, new Uint16Array(3))], [...odd]);
  const read = to.read(64, new Float32Array(count)), expected = widened(bits);
  assert.equal(read.findIndex((x, i) => x !== expected[i]), -1);
});
