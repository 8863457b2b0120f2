/** Profiles: interpolation that is sound in every direction, and the shipped tables against rows that they were not made from. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { type DataSheet, parseProfile, type Profile, roofline } from "../../planner/profile.ts";
import { collectiveSeconds } from "../../planner/price.ts";
import { lookUp, monotone, type Table } from "../../ir/table.ts";
import sample from "./profile_sample.json" with { type: "json" };

const read = (name: string): Profile => {
  const file = new URL(`../../profiles/${name}.json`, import.meta.url);
  return parseProfile(JSON.parse(Deno.readTextFileSync(file)), `${name}.json`);
};
const median = (xs: readonly number[]) => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;

const axis = fc.uniqueArray(fc.integer({ min: 1, max: 1000 }), { minLength: 1, maxLength: 4 })
  .map((xs) => xs.toSorted((a, b) => a - b));
const table: fc.Arbitrary<Table> = fc.array(axis, { minLength: 1, maxLength: 3 }).chain((axes) => {
  const count = axes.reduce((n, a) => n * a.length, 1);
  return fc.array(fc.double({ min: 1e-6, max: 1, noNaN: true }), { minLength: count, maxLength: count })
    .map((seconds) => monotone({ axes, seconds }));
});

Deno.test("lookUp() grows with every coordinate, inside the grid and beyond it", () => {
  const coordinate = fc.double({ min: 0.1, max: 1e5, noNaN: true });
  fc.assert(
    fc.property(
      table,
      fc.array(coordinate, { minLength: 3, maxLength: 3 }),
      fc.nat(2),
      coordinate,
      (t, at, i, more) => {
        const larger = at.map((x, j) => j === i ? x + more : x);
        assert.ok(lookUp(t, larger) >= lookUp(t, at) * (1 - 1e-9));
      },
    ),
  );
});

Deno.test("lookUp() gives the measured points, what lies between them, and proportion beyond the last", () => {
  const t: Table = { axes: [[1, 4], [10, 40]], seconds: [1, 2, 4, 8] };
  assert.ok(Math.abs(lookUp(t, [4, 40]) - 8) < 1e-12);
  assert.equal(lookUp(t, [1, 10]), 1);
  assert.ok(Math.abs(lookUp(t, [2, 20]) - Math.sqrt(8)) < 1e-12);
  assert.ok(Math.abs(lookUp(t, [8, 40]) - 16) < 1e-12);
  assert.ok(Math.abs(lookUp(t, [8, 80]) - 32) < 1e-12);
  assert.equal(lookUp(t, [0.01, 1]), 1);
});

// The published search interpolated over unsorted points: its answer depended on the order of the rows.
Deno.test("parseProfile() refuses tables whose axes do not rise, and lists everything that is wrong", () => {
  const good = read("h100"),
    matmul = { ...good.tables.matmul, axes: [[16, 1], ...good.tables.matmul.axes.slice(1)] };
  assert.throws(() => parseProfile({ ...good, tables: { matmul } }, "x.json"), {
    name: "TypeError",
    message:
      /^Cannot use x\.json: profile\.tables\.matmul has \d+ seconds for \d+ points; .* has an axis that does not rise/,
  });
  assert.throws(() => parseProfile({ ...good, version: 2, links: [{ devices: 1 }], extra: 1 }, "x.json"), {
    message: /profile\.version is 2.*links\[0\]\.microseconds is missing.*profile\.extra is unknown/,
  });
});

for (const name of ["a100", "h100", "h200"] as const) {
  Deno.test(`the profile of ${name} is within 10 % of measured rows that it was not made from`, () => {
    const { tables } = read(name);
    for (const [kind, rows] of Object.entries(sample[name])) {
      const errors = rows.map((row) => {
        const seconds = row.at(-1)!, at = row.slice(0, -1);
        return Math.abs(lookUp(tables[kind as keyof typeof tables]!, at) / seconds - 1);
      });
      assert.ok(median(errors) <= 0.1, `${kind}: ${median(errors)}`);
    }
  });
}

Deno.test("a collective takes longer with more bytes and over more nodes, and nothing for one rank", () => {
  const p = read("h100"),
    group = (ranks: number, perNode: number) => ({ ranks, perNode, microseconds: 20, GBps: 50 });
  const sum = (bytes: number, ranks: number, perNode: number) =>
    collectiveSeconds("allReduce", bytes, group(ranks, perNode), p);
  assert.equal(sum(1e9, 1, 1), 0);
  assert.ok(sum(2e9, 8, 8) > sum(1e9, 8, 8));
  assert.ok(sum(1e9, 16, 8) > sum(1e9, 8, 8));
  // One rank in each node has one network link; eight share eight.
  assert.ok(sum(1e9, 16, 1) > 5 * sum(1e9, 16, 8));
  // H100: 1 GiB over NVLink in 4.5 to 6.5 ms.
  const seconds = sum(2 ** 30, 8, 8);
  assert.ok(seconds > 0.0045 && seconds < 0.0065, `${seconds}`);
});

Deno.test("roofline() of a data sheet never beats it", () => {
  const sheet: DataSheet = {
    name: "L40S",
    teraflops: 362,
    memoryGBps: 864,
    memoryBytes: 44 * 2 ** 30,
    hostGBps: 32,
    elementBytes: 2,
    links: [{ devices: 8, microseconds: 10, GBps: 32 }],
  };
  const p = parseProfile(JSON.parse(JSON.stringify(roofline(sheet))), "L40S");
  for (const [m, n, k] of [[1, 4096, 4096], [8192, 8192, 8192], [300, 5000, 77]] as const) {
    const flops = 2 * m * n * k, bytes = 2 * (m * k + n * k + m * n);
    assert.ok(lookUp(p.tables.matmul, [m, n, k]) >= Math.max(flops / 362e12, bytes / 864e9));
  }
});
