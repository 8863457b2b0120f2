import assert from "node:assert/strict";
import fc from "fast-check";
import { fromBfloat16, fromFloat16, toBfloat16 } from "../../engine/half.ts";

const bitsOf = (value: number): number => new Uint32Array(Float32Array.of(value).buffer)[0]!;
const ofBits = (bits: number): Float32Array => new Float32Array(Uint32Array.of(bits).buffer);

/** Rounding by choice among the two neighbours, with exact double arithmetic: slow and plainly right. */
function nearestBfloat16(value: number): number {
  const bits = bitsOf(value), down = bits >>> 16, up = down + 1;
  // Past the largest finite value the next "neighbour" counts as 2^128, though its pattern is infinity.
  const numberOf = (half: number) => {
    const exact = new Float32Array(Uint32Array.of(half << 16).buffer)[0]!;
    return Number.isFinite(exact) ? exact : Math.sign(exact) * 2 ** 128;
  };
  const below = Math.abs(value - numberOf(down)), above = Math.abs(numberOf(up) - value);
  if (below === above) return down % 2 === 0 ? down : up;
  return below < above ? down : up;
}

Deno.test("toBfloat16() rounds to nearest, ties to even, for every kind of float", () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 0xffffffff }), (bits) => {
      const value = ofBits(bits)[0]!;
      fc.pre(Number.isFinite(value));
      assert.equal(toBfloat16(ofBits(bits))[0], nearestBfloat16(value), `${value}`);
    }),
    { numRuns: 20_000 },
  );
  // Ties themselves are rare among random numbers.
  for (let upper = 0; upper < 0x7f80; upper += 7) {
    for (const lower of [0x7fff, 0x8000, 0x8001]) {
      const bits = upper * 65536 + lower;
      assert.equal(toBfloat16(ofBits(bits))[0], nearestBfloat16(ofBits(bits)[0]!), bits.toString(16));
    }
  }
});

Deno.test("toBfloat16() keeps infinities, and NaN as a quiet NaN", () => {
  assert.deepEqual([...toBfloat16(Float32Array.of(Infinity, -Infinity))], [0x7f80, 0xff80]);
  for (const bits of [0x7f800001, 0x7fffffff, 0xff800001, 0x7fc00000]) {
    const out = toBfloat16(ofBits(bits))[0]!;
    assert.ok((out & 0x7f80) === 0x7f80 && (out & 0x40) !== 0, bits.toString(16));
  }
});

Deno.test("fromBfloat16() inverts toBfloat16() for all 65536 patterns", () => {
  const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const back = toBfloat16(fromBfloat16(all));
  for (const i of all) if (!Number.isNaN(fromBfloat16(Uint16Array.of(i))[0])) assert.equal(back[i], i);
});

Deno.test("fromFloat16() agrees with the definition for all 65536 patterns", () => {
  const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const values = fromFloat16(all);
  for (const bits of all) {
    const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const expected = exponent === 31
      ? (fraction === 0 ? sign * Infinity : NaN)
      : sign * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
    assert.ok(
      Object.is(values[bits], expected),
      `${bits.toString(16)}: ${values[bits]} instead of ${expected}`,
    );
  }
});
