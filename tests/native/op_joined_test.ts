/** Joined operations: by their formulas, and with the bits of the operations that they stand for. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { storedAs } from "../../engine/half.ts";
import { describe } from "../../ffi/device.ts";
import { POINTWISE } from "../../ir/op.ts";
import {
  assertClose,
  assertSameBits,
  below,
  type Data,
  everywhere,
  floats,
  generator,
  ints,
  normal,
  panels,
  run,
} from "./harness.ts";

type Floats = Float32Array<ArrayBuffer>;

/** What an operation reads and gives in one of the two types. */
interface Stored {
  /** Numbers that the type has. */
  readonly of: (x: Floats) => Data;
  /** A new output. */
  readonly room: (n: number) => number | Data;
}
const TYPES: readonly Stored[] = [
  { of: (x) => x, room: (n) => n },
  { of: (x) => storedAs(x, "bf16") as Data, room: (n) => new Uint16Array(n) },
];

const shapes = fc.record({
  half: fc.nat(1),
  rows: fc.nat(9),
  kv: fc.integer({ min: 1, max: 3 }),
  group: fc.integer({ min: 1, max: 4 }),
  width: fc.constantFrom(2, 14, 16, 64, 80, 96, 128, 256),
  seed: fc.nat(1000),
});

Deno.test("addRmsnorm() agrees with its formula", async () => {
  const next = generator(1), eps = 1e-5;
  for (const [r, h] of [[1, 3], [3, 16], [5, 37], [70, 64], [2, 600], [3, 2048], [0, 8]] as const) {
    const x = normal(r * h, next), d = normal(r * h, next), w = normal(h, next);
    const [s, y, rstd] = await run("addRmsnorm", [x, d, w], [r * h, r * h, r], [r, h, eps]);
    const sum = x.map((v, i) => v + d[i]!),
      scale = Array.from({ length: r }, (_, i) => {
        const squares = sum.subarray(i * h, (i + 1) * h).reduce((n, v) => n + v * v, 0);
        return 1 / Math.sqrt(squares / h + eps);
      });
    assertSameBits(s!, sum, `s ${r}×${h}`);
    assertClose(rstd!, scale, 1e-6, `rstd ${r}×${h}`);
    const expected = Float64Array.from(sum, (v, i) => v * scale[Math.floor(i / h)]! * w[i % h]!);
    assertClose(y!, expected, 1e-6, `y ${r}×${h}`);
  }
});

Deno.test("addRmsnorm() gives the bits of a sum and its norm, in both types, and over what it reads", async () => {
  const widths = fc.constantFrom(1, 15, 64, 96, 520, 1024, 2056, 4096);
  await fc.assert(
    fc.asyncProperty(shapes, widths, fc.boolean(), async ({ half, rows, seed }, h, swapped) => {
      const next = generator(seed), { of, room } = TYPES[half]!, n = rows * h;
      const [x, r, w] = [of(normal(n, next)), of(normal(n, next)), of(normal(h, next))];
      const [sum] = await run("pointwise", [x, r], [room(n)], [n, 2, 1, 1, 1, 1, POINTWISE.add, 0, 1, 0, 2]);
      const [y, rstd] = await run("rmsnorm", [of(sum!), w], [room(n), rows], [rows, h, 1e-6]);
      const places = [{ inPlace: swapped ? 1 : 0 }, { inPlace: swapped ? 0 : 1 }, rows];
      for (const outs of [[room(n), room(n), rows], places]) {
        const joined = await run("addRmsnorm", [x, r, w], outs, [rows, h, 1e-6]);
        [sum!, y!, rstd!].forEach((expected, i) =>
          assertSameBits(joined[i]!, expected, `${["s", "y", "rstd"][i]} ${rows}×${h}`)
        );
      }
    }),
    { numRuns: 40 },
  );
});

Deno.test("rmsnormGrad() gives the bits of rmsnormDx() and rmsnormDw(), with sums that go on or without", async () => {
  const gradients = fc.constantFrom(0, 1), widths = fc.constantFrom(1, 15, 64, 128, 256, 1024, 2056, 4096);
  await fc.assert(
    fc.asyncProperty(
      shapes,
      widths,
      gradients,
      fc.boolean(),
      fc.boolean(),
      async (shape, h, type, prior, more) => {
        const { half, rows, seed } = shape, next = generator(seed), n = rows * h, { of, room } = TYPES[half]!;
        const [dy, x, w, rstd] = [
          of(normal(n, next)),
          of(normal(n, next)),
          of(normal(h, next)),
          normal(rows, next),
        ];
        const sum = of(normal(n, next)), total = TYPES[half && type]!.of(normal(h, next));
        const before = [prior ? [sum] : [], more ? [total] : []] as const;
        const [dx] = await run("rmsnormDx", [dy, x, w, rstd, ...before[0]], [room(n)], [
          rows,
          h,
          Number(prior),
        ]);
        const [dw] = await run("rmsnormDw", [dy, x, rstd, ...before[1]], [TYPES[half && type]!.room(h)], [
          rows,
          h,
          Number(more),
        ]);
        const outs = [
          prior ? { inPlace: 4 } : room(n),
          more ? { inPlace: 4 + Number(prior) } : TYPES[half && type]!.room(h),
        ];
        const found = await run("rmsnormGrad", [dy, x, w, rstd, ...before.flat()], outs, [
          rows,
          h,
          Number(prior),
          Number(more),
        ]);
        assertSameBits(found[0]!, dx!, `dx ${rows}×${h}`);
        // GPUs add rows in an order of the kernel's own in bf16.
        if (half && describe().backend === "cuda") assertClose(found[1]!, dw!, 1e-2, `dw ${rows}×${h}`, 1e-6);
        else assertSameBits(found[1]!, dw!, `dw ${rows}×${h}`);
      },
    ),
    { numRuns: 40 },
  );
});

/** q, k and v, angles for 60 positions, and weights of norms. */
function heads(
  { half, rows, kv, group, width, seed }: {
    half: number;
    rows: number;
    kv: number;
    group: number;
    width: number;
    seed: number;
  },
) {
  const next = generator(seed), { of, room } = TYPES[half]!, tensor = (n: number) => of(normal(n, next));
  const [nq, nk] = [rows * kv * group * width, rows * kv * width];
  return {
    of,
    room,
    nq,
    nk,
    q: tensor(nq),
    k: tensor(nk),
    v: tensor(nk),
    qw: tensor(width),
    kw: tensor(width),
    positions: below(rows, 60, next),
    table: normal(60 * width, next),
    counts: [kv * group, kv] as const,
  };
}

/** The rotation of queries and keys by single operations, after norms if there are any. */
async function rotated(
  z: ReturnType<typeof heads>,
  rows: number,
  width: number,
  direction: number,
  normed: boolean,
) {
  const one = async (x: Data, n: number, count: number, w: Data) => {
    const [y, rstd] = normed
      ? await run("rmsnorm", [x, w], [z.room(n), rows * count], [rows * count, width, 1e-6])
      : [];
    const [turned] = await run("rope", [y ? z.of(y) : x, z.positions, z.table], [z.room(n)], [
      rows,
      count,
      width,
      direction,
    ]);
    return [turned!, rstd] as const;
  };
  const [q, qrstd] = await one(z.q, z.nq, z.counts[0], z.qw),
    [k, krstd] = await one(z.k, z.nk, z.counts[1], z.kw);
  return { q, k, rstd: qrstd && krstd ? [qrstd, krstd] : [] };
}

Deno.test("ropes() gives the bits of two ropes and the norms before them, in both types and in place", async () => {
  await fc.assert(
    fc.asyncProperty(shapes, fc.boolean(), fc.constantFrom(1, -1), async (shape, normed, direction) => {
      const z = heads(shape),
        { rows, width } = shape,
        expected = await rotated(z, rows, width, direction, normed);
      const ins = [z.q, z.k, z.positions, z.table, ...normed ? [z.qw, z.kw] : []];
      const statistics = normed ? z.counts.map((n) => rows * n) : [];
      for (const outs of [[z.room(z.nq), z.room(z.nk)], [{ inPlace: 0 }, { inPlace: 1 }]]) {
        const found = await run("ropes", ins, [...outs, ...statistics], [
          rows,
          ...z.counts,
          width,
          direction,
          1e-6,
          Number(normed),
        ]);
        [expected.q, expected.k, ...expected.rstd].forEach((x, i) =>
          assertSameBits(
            found[i]!,
            x,
            `${["q", "k", "rstd of q", "rstd of k"][i]} of ${JSON.stringify(shape)}`,
          )
        );
      }
    }),
    { numRuns: 40 },
  );
});

Deno.test("ropeKvWrite() gives the bits of norms, ropes and kvWrite(), kept keys among them", async () => {
  const maxPages = 4, slotsOf = 3, pages = slotsOf * maxPages, layers = 2;
  await fc.assert(
    fc.asyncProperty(shapes, fc.boolean(), fc.boolean(), async (shape, normed, keep) => {
      const z = heads(shape), { rows, width, seed } = shape, next = generator(seed + 1);
      // Every token has a place of its own, so that the order of writes is none of the result.
      z.positions.forEach((_, i) => z.positions[i] = 6 * i);
      const { q, k } = await rotated(z, rows, width, 1, normed), { positions } = z;
      const slots = below(rows, slotsOf, next), finished = ints(0, 1, 0);
      const table = Int32Array.from({ length: pages }, (_, i) => (i * 5 + 1) % pages);
      const empty = z.of(new Float32Array(layers * pages * 2 * z.counts[1] * width * 16).fill(7));
      const where = [1, pages, maxPages];
      const [kv] = await run("kvWrite", [z.of(k), z.v, slots, positions, table, finished], [empty], [
        rows,
        z.counts[1],
        width,
        ...where,
      ]);
      const ins = [z.q, z.k, z.v, positions, z.table, slots, table, finished, ...normed ? [z.qw, z.kw] : []];
      const attrs = [rows, ...z.counts, width, ...where, 1e-6, Number(normed), Number(keep)];
      const rooms = [z.room(z.nq), ...keep ? [z.room(z.nk)] : []];
      for (const outs of [rooms, keep ? [{ inPlace: 0 }, { inPlace: 1 }] : [{ inPlace: 0 }]]) {
        const found = await run("ropeKvWrite", ins, [...outs, empty], attrs);
        [q, ...keep ? [k] : [], kv!].forEach((x, i) =>
          assertSameBits(found[i]!, x, `output ${i} of ${JSON.stringify(shape)}`)
        );
      }
    }),
    { numRuns: 40 },
  );
});

Deno.test("joined rotations name positions without angles, slots that are not there and missing pages", async () => {
  const x = floats(1, 2), angles = floats(1, 0);
  await assert.rejects(
    run("ropes", [x, x, ints(3), angles], [2, 2], [1, 1, 1, 2, 1, 0, 0]),
    /operation 0 \(ropes\): position 0 is 3 and there are 1/,
  );
  const write = (position: number, slot: number, page: number) =>
    run("ropeKvWrite", [x, x, x, ints(position), angles, ints(slot), ints(page), ints(0)], [
      2,
      new Float32Array(64),
    ], [
      ...[1, 1, 1, 2, 0, 1, 1],
      ...[0, 0, 0],
    ]);
  await assert.rejects(write(1, 0, 0), /operation 0 \(ropeKvWrite\): position 0 is 1 and there are 1/);
  await assert.rejects(write(0, 2, 0), /slot 0 is 2 and there are 1/);
  await assert.rejects(write(0, 0, -1), /slot 0 has no page for position 0/);
});

const products = fc.record({
  half: fc.nat(1),
  m: fc.constantFrom(0, 1, 2, 7, 15, 16, 17, 29, 60, 130),
  // GPUs read eight neighbours of k at a time where there are as many.
  k: fc.constantFrom(1, 8, 16, 37, 72, 256, 300, 520),
  widths: fc.tuple(...[1, 2, 3].map(() => fc.constantFrom(1, 15, 16, 40, 130))),
  lie: fc.constantFrom(0, 1),
  seed: fc.nat(1000),
});

/** A weight of n outputs, in panels or in rows. */
const weightOf = (n: number, k: number, lie: number, next: () => number): Floats =>
  lie ? panels(normal(n * k, next), n, k) : normal(n * k, next);

Deno.test("matmul2() and matmul3() give the bits of matmul(), with biases or without, stored in either type", async () => {
  await fc.assert(
    fc.asyncProperty(products, fc.constantFrom(0, 1), fc.nat(1), async (shape, biased, wide) => {
      const { half, m, k, widths, lie, seed } = shape, next = generator(seed), { of } = TYPES[half]!;
      const { room } = TYPES[half && wide]!, x = of(normal(m * k, next));
      const all = widths.map((n) => ({
        n,
        w: of(weightOf(n, k, lie, next)),
        bias: biased ? [of(normal(n, next))] : [],
      }));
      const expected = await Promise.all(
        all.map(async ({ n, w, bias }) =>
          (await run("matmul", [x, w, ...bias], [room(m * n)], [m, n, k, lie, biased]))[0]!
        ),
      );
      for (const [kind, count] of [["matmul2", 2], ["matmul3", 3]] as const) {
        const some = all.slice(0, count);
        const ins = [x, ...some.map(({ w }) => w), ...some.flatMap(({ bias }) => bias)];
        const attrs = [m, ...some.map(({ n }) => n), k, lie, biased];
        const found = await run(kind, ins, some.map(({ n }) => room(m * n)), attrs);
        found.forEach((y, i) =>
          assertSameBits(y, expected[i]!, `${kind}, output ${i} of ${JSON.stringify(shape)}`)
        );
      }
    }),
    { numRuns: 40 },
  );
});

Deno.test("gatedMatmul() gives the bits of two products and swiglu(), rounded in between", async () => {
  await fc.assert(
    fc.asyncProperty(products, async (shape) => {
      const { half, m, k, widths: [n], lie, seed } = shape,
        next = generator(seed),
        { of, room } = TYPES[half]!;
      const x = of(normal(m * k, next)), weights = [1, 2].map(() => of(weightOf(n!, k, lie, next)));
      const both = await Promise.all(
        weights.map(async (w) => (await run("matmul", [x, w], [room(m * n!)], [m, n!, k, lie, 0]))[0]!),
      );
      const [expected] = await run("swiglu", both.map(of), [room(m * n!)], [m * n!]);
      const [y] = await run("gatedMatmul", [x, ...weights], [room(m * n!)], [m, n!, k, lie]);
      assertSameBits(y!, expected!, JSON.stringify(shape));
    }),
    { numRuns: 40 },
  );
});

Deno.test("joined products of many rows and deep sums have the bits of single ones, on every instruction set", async () => {
  const next = generator(9), [m, k] = [470, 521], widths = [200, 65, 33];
  const x = normal(m * k, next), weights = widths.map((n) => weightOf(n, k, 1, next));
  const up = weightOf(widths[0]!, k, 1, next);
  await everywhere(async (threads) => {
    for (const rows of [m, 40, 3]) {
      const some = x.slice(0, rows * k), at = (n: number) => [rows, n, k];
      const single = await Promise.all([...weights, up].map(async (w, i) => {
        const n = widths[i % 3]!;
        return (await run("matmul", [some, w], [rows * n], at(n), threads))[0]!;
      }));
      const found = await run("matmul3", [some, ...weights], widths.map((n) => rows * n), [
        rows,
        ...widths,
        k,
      ], threads);
      found.forEach((y, i) =>
        assertSameBits(y, single[i]!, `output ${i} of ${rows} rows, ${threads} threads`)
      );
      const [expected] = await run("swiglu", [single[0]!, single[3]!], [rows * widths[0]!], [
        rows * widths[0]!,
      ], threads);
      const [y] = await run(
        "gatedMatmul",
        [some, weights[0]!, up],
        [rows * widths[0]!],
        at(widths[0]!),
        threads,
      );
      assertSameBits(y!, expected!, `gated, ${rows} rows, ${threads} threads`);
    }
  });
});
