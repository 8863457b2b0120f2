import assert from "node:assert/strict";
import { toBfloat16 } from "../../engine/half.ts";
import { assertClose, assertSameBits, ends, floats, generator, ints, normal, run } from "./harness.ts";

type Floats = Float32Array<ArrayBuffer>;

/** Heads of the query and of keys and values, their width, the sliding window (0: none). */
interface Shape {
  readonly lengths: readonly number[];
  readonly heads: number;
  readonly kv: number;
  readonly d: number;
  readonly window: number;
}
const total = (lengths: readonly number[]) => lengths.reduce((a, b) => a + b, 0);
const scaleOf = (z: Shape) => 1 / Math.sqrt(z.d);

/** Calls f(query row, key row, head) for every pair that sees each other. */
function pairs(z: Shape, f: (i: number, j: number, h: number) => void): void {
  let start = 0;
  for (const length of z.lengths) {
    for (let h = 0; h < z.heads; h++) {
      for (let i = 0; i < length; i++) {
        for (let j = z.window ? Math.max(0, i - z.window + 1) : 0; j <= i; j++) f(start + i, start + j, h);
      }
    }
    start += length;
  }
}
const q_ = (z: Shape, i: number, h: number) => (i * z.heads + h) * z.d;
const k_ = (z: Shape, j: number, h: number) => (j * z.kv + Math.floor(h / (z.heads / z.kv))) * z.d;
function dot(a: Floats, at: number, b: Floats, from: number, d: number): number {
  let s = 0;
  for (let x = 0; x < d; x++) s += a[at + x]! * b[from + x]!;
  return s;
}

/** The textbook in double precision. */
function reference(z: Shape, q: Floats, k: Floats, v: Floats) {
  const t = total(z.lengths), o = new Float64Array(q.length), sum = new Float64Array(t * z.heads);
  const p = (i: number, j: number, h: number) =>
    Math.exp(scaleOf(z) * dot(q, q_(z, i, h), k, k_(z, j, h), z.d));
  pairs(z, (i, j, h) => sum[i * z.heads + h]! += p(i, j, h));
  const share = (i: number, j: number, h: number) => p(i, j, h) / sum[i * z.heads + h]!;
  pairs(z, (i, j, h) => {
    const w = share(i, j, h);
    for (let x = 0; x < z.d; x++) o[q_(z, i, h) + x]! += w * v[k_(z, j, h) + x]!;
  });
  return { o, lse: sum.map(Math.log), share };
}

const SHAPES: readonly Shape[] = [
  { lengths: [1], heads: 1, kv: 1, d: 4, window: 0 },
  { lengths: [5, 0, 17, 1, 33], heads: 4, kv: 2, d: 16, window: 0 },
  { lengths: [40, 9], heads: 3, kv: 1, d: 20, window: 0 },
  { lengths: [300, 2], heads: 2, kv: 2, d: 8, window: 0 },
  { lengths: [3, 140, 260], heads: 2, kv: 1, d: 48, window: 0 },
  { lengths: [70, 12], heads: 2, kv: 1, d: 16, window: 5 },
  { lengths: [290, 40], heads: 1, kv: 1, d: 16, window: 37 },
  { lengths: [600], heads: 1, kv: 1, d: 6, window: 270 },
  { lengths: [20], heads: 40, kv: 1, d: 4, window: 0 },
  { lengths: [], heads: 2, kv: 1, d: 8, window: 0 },
];
const attrs = (z: Shape) => [total(z.lengths), z.lengths.length, z.heads, z.kv, z.d, z.window, scaleOf(z)];
const name = (z: Shape) => `lengths ${z.lengths} heads ${z.heads}/${z.kv} d ${z.d} window ${z.window}`;
function tensors(z: Shape, seed: number) {
  const next = generator(seed), t = total(z.lengths);
  const make = (heads: number) => normal(t * heads * z.d, next);
  return { q: make(z.heads), k: make(z.kv), v: make(z.kv), dO: make(z.heads), at: ends(z.lengths) };
}

Deno.test("attention() agrees with the textbook over packed sequences, heads and windows", async () => {
  for (const z of SHAPES) {
    const { q, k, v, at } = tensors(z, 1), { o, lse } = reference(z, q, k, v);
    const [out, l] = await run("attention", [q, k, v, at], [q.length, lse.length], attrs(z));
    assertClose(out!, o, 3e-6, `o of ${name(z)}`);
    assertClose(l!, lse, 2e-6, `lse of ${name(z)}`);
  }
});

Deno.test("attentionGrad() agrees with the derivative of the textbook", async () => {
  for (const z of SHAPES) {
    const { q, k, v, dO, at } = tensors(z, 2),
      { o, lse, share } = reference(z, q, k, v),
      [O, L] = [floats(...o), floats(...lse)];
    const dq = new Float64Array(q.length), dk = new Float64Array(k.length), dv = new Float64Array(v.length);
    pairs(z, (i, j, h) => {
      const a = q_(z, i, h), b = k_(z, j, h), p = share(i, j, h);
      const ds = p * (dot(dO, a, v, b, z.d) - dot(dO, a, O, a, z.d)) * scaleOf(z);
      for (let x = 0; x < z.d; x++) {
        dq[a + x]! += ds * k[b + x]!;
        dk[b + x]! += ds * q[a + x]!;
        dv[b + x]! += p * dO[a + x]!;
      }
    });
    const found = await run(
      "attentionGrad",
      [dO, q, k, v, O, L, at],
      [q.length, k.length, v.length],
      attrs(z),
    );
    [dq, dk, dv].forEach((expected, i) =>
      assertClose(found[i]!, expected, 5e-6, `${["dq", "dk", "dv"][i]} of ${name(z)}`, 1)
    );
  }
});

Deno.test("attention() never lets a NaN behind a mask through", async () => {
  const z: Shape = { lengths: [50], heads: 2, kv: 1, d: 16, window: 0 };
  const { q, k, v, at } = tensors(z, 3), sizes = [q.length, 100];
  const [clean] = await run("attention", [q, k, v, at], sizes, attrs(z));
  k.fill(NaN, 30 * 16), v.fill(NaN, 30 * 16), q.fill(NaN, 30 * 32);
  const [dirty] = await run("attention", [q, k, v, at], sizes, attrs(z));
  assertSameBits(dirty!.subarray(0, 30 * 32), clean!.subarray(0, 30 * 32), "tokens before the NaN");
  assert.ok(dirty!.subarray(30 * 32).every(Number.isNaN));
});

// ---- the paged cache ---------------------------------------------------------------------------------------------

const PAGE = 16;
interface Cache {
  readonly slots: number;
  readonly maxPages: number;
  readonly pages: number;
  readonly layers: number;
  readonly table: Int32Array<ArrayBuffer>;
}
/** Slots with scattered pages in a cache whose memory is NaN. */
function cache(slots: number, maxPages: number): Cache {
  const order = Array.from({ length: slots * maxPages }, (_, i) => (i * 7 + 3) % (slots * maxPages));
  assert.equal(new Set(order).size, order.length);
  return { slots, maxPages, pages: slots * maxPages, layers: 2, table: ints(...order) };
}
const memory = (c: Cache, z: Shape): Floats =>
  new Float32Array(c.layers * c.pages * 2 * z.kv * z.d * PAGE).fill(NaN);

Deno.test("pagedAttention() after kvWrite() gives the bits of attention()", async () => {
  const shapes: readonly Shape[] = [
    { lengths: [20, 1, 33], heads: 4, kv: 2, d: 16, window: 0 },
    { lengths: [300], heads: 2, kv: 2, d: 64, window: 0 },
    { lengths: [600, 17], heads: 11, kv: 1, d: 24, window: 0 },
    { lengths: [290, 40], heads: 3, kv: 1, d: 6, window: 37 },
    { lengths: [550], heads: 8, kv: 1, d: 32, window: 300 },
  ];
  for (const z of shapes) {
    const { q, k, v, at } = tensors(z, 4), t = total(z.lengths), layer = 1;
    const c = cache(z.lengths.length, 39), finished = new Int32Array(c.slots);
    const slots = Int32Array.from({ length: t }, (_, i) => at.findIndex((end) => i < end));
    const positions = Int32Array.from(slots, (s, i) => i - (s ? at[s - 1]! : 0));
    const page = [layer, c.pages, c.maxPages];
    const [kv] = await run("kvWrite", [k, v, slots, positions, c.table, finished], [memory(c, z)], [
      t,
      z.kv,
      z.d,
      ...page,
    ]);
    const [o] = await run("attention", [q, k, v, at], [q.length, t * z.heads], attrs(z));
    // Every row at once is a prefill, some rows are a decode step.
    for (const rows of [[...slots.keys()], [0, t - 1, t >> 1, 0, t >> 2]]) {
      const width = z.heads * z.d,
        pick = Float32Array.from(
          { length: rows.length * width },
          (_, e) => q[rows[Math.floor(e / width)]! * width + e % width]!,
        );
      const [s, p] = [ints(...rows.map((r) => slots[r]!)), ints(...rows.map((r) => positions[r]!))];
      const [out] = await run("pagedAttention", [pick, kv!, s, p, c.table], [pick.length], [
        rows.length,
        z.heads,
        z.kv,
        z.d,
        z.window,
        scaleOf(z),
        ...page,
      ]);
      rows.forEach((r, i) => {
        const expected = o!.subarray(r * width, (r + 1) * width);
        assertSameBits(out!.subarray(i * width, (i + 1) * width), expected, `row ${r} of ${name(z)}`);
      });
    }
  }
});

Deno.test("kvWrite() leaves finished slots alone and names a position without a page", async () => {
  const z: Shape = { lengths: [2], heads: 1, kv: 1, d: 4, window: 0 }, c = cache(2, 1), before = memory(c, z);
  const k = floats(1, 2, 3, 4, 5, 6, 7, 8),
    write = (positions: Int32Array<ArrayBuffer>, table = c.table) =>
      run("kvWrite", [k, k, ints(0, 1), positions, table, ints(0, 1)], [before], [2, 1, 4, 0, c.pages, 1]);
  const [kv] = await write(ints(3, 99)), page = 2 * 4 * PAGE, live = c.table[0]! * page;
  const expected = before.slice();
  for (let d = 0; d < 4; d++) expected[live + d * PAGE + 3] = expected[live + 4 * PAGE + 3 * 4 + d] = k[d]!;
  assertSameBits(kv!, expected, "one row");
  await assert.rejects(write(ints(16, 0)), /slot 0 has no page for position 16/);
  await assert.rejects(write(ints(0, 0), ints(-1, 0)), /slot 0 has no page for position 0/);
});

Deno.test("pagedAttention() gives NaN where a page is missing", async () => {
  const z: Shape = { lengths: [1], heads: 1, kv: 1, d: 4, window: 0 }, c = cache(1, 2);
  const [o] = await run(
    "pagedAttention",
    [floats(1, 2, 3, 4), memory(c, z), ints(0), ints(20), ints(1, -1)],
    [4],
    [1, 1, 1, 4, 0, 1, 0, 2, 2],
  );
  assert.ok(o!.every(Number.isNaN));
});

Deno.test("pagedAttention() gives a row the same bits in any batch", async () => {
  const next = generator(9),
    [heads, kv, d, maxPages] = [6, 2, 32, 40],
    pages = 2 * maxPages,
    width = heads * d;
  const memory = normal(2 * pages * kv * d * PAGE, next),
    table = Int32Array.from({ length: pages }, (_, i) => i);
  const slots = [0, 1, 1, 0, 1], positions = [3, 639, 300, 255, 256], q = normal(slots.length * width, next);
  const rows = async (picked: readonly number[]) => {
    const x = Float32Array.from(picked.flatMap((r) => [...q.subarray(r * width, (r + 1) * width)]));
    const [o] = await run(
      "pagedAttention",
      [x, memory, ints(...picked.map((r) => slots[r]!)), ints(...picked.map((r) => positions[r]!)), table],
      [x.length],
      [picked.length, heads, kv, d, 0, d ** -.5, 0, pages, maxPages],
    );
    return o!;
  };
  const all = await rows([0, 1, 2, 3, 4]);
  for (const r of [0, 1, 2, 3, 4]) {
    assertSameBits(await rows([r]), all.slice(r * width, (r + 1) * width), `row ${r}`);
  }
});

Deno.test("pagedAttention() in bf16 gives rows that share pages the same bits in any batch", async () => {
  const next = generator(10), maxPages = 40, pages = 400;
  for (
    const [heads, kv, d, window] of [[8, 2, 64, 0], [4, 4, 128, 0], [6, 1, 32, 300], [2, 1, 256, 0]] as const
  ) {
    const width = heads * d, rows = 9, shared = [34, 34, 34, 34, 34, 20, 20, 20, 0];
    const memory = toBfloat16(normal(2 * pages * kv * d * PAGE, next)),
      q = toBfloat16(normal(rows * width, next));
    // Samples of two prompts, whose pages are 360 … and 330 …, and a row alone.
    const table = Int32Array.from({ length: rows * maxPages }, (_, i) => {
      const [row, page] = [Math.floor(i / maxPages), i % maxPages];
      return page < shared[row]! ? (row < 5 ? 360 : 330) + page : 36 * row + page % 36;
    });
    const positions = [545, 600, 544, 551, 639, 321, 400, 333, 77];
    const attend = async (picked: readonly number[], table: Int32Array<ArrayBuffer>) => {
      const x = Uint16Array.from(picked.flatMap((r) => [...q.subarray(r * width, (r + 1) * width)]));
      const [o] = await run(
        "pagedAttention",
        [x, memory, ints(...picked), ints(...picked.map((r) => positions[r]!)), table],
        [new Uint16Array(x.length)],
        [picked.length, heads, kv, d, window, d ** -.5, 0, pages, maxPages],
      );
      return o!;
    };
    const all = await attend(positions.keys().toArray(), table);
    for (const r of positions.keys()) {
      assertSameBits(
        await attend([r], table),
        all.slice(r * width, (r + 1) * width),
        `head size ${d}, row ${r}`,
      );
    }
    const some = [2, 0, 3, 6];
    const few = await attend(some, table);
    for (const [i, r] of some.entries()) {
      const found = few.slice(i * width, (i + 1) * width);
      assertSameBits(found, all.slice(r * width, (r + 1) * width), `head size ${d}, row ${r} of few`);
    }
    const lacking = table.slice();
    lacking[4 * maxPages + 33] = -1;
    const others = await attend(positions.keys().toArray(), lacking), four = 4 * width;
    assertSameBits(others.slice(0, four), all.slice(0, four), "rows before the one that lacks a page");
    assert.ok(others.slice(four, four + width).every(Number.isNaN), "the row that lacks a page");
  }
});

Deno.test("copyPages() copies pages of every layer", async () => {
  const layers = 3,
    pages = 5,
    kv = 2,
    d = 4,
    page = 2 * kv * d * PAGE,
    x = normal(layers * pages * page, generator(5));
  const [after] = await run("copyPages", [x, ints(1, 4), ints(0, 2)], [{ inPlace: 0 }], [
    2,
    kv,
    d,
    layers,
    pages,
  ]);
  const source = [1, 1, 4, 3, 4];
  const expected = x.map((_, i) =>
    x[
      Math.floor(i / (pages * page)) * pages * page + source[Math.floor(i / page) % pages]! * page + i % page
    ]!
  );
  assertSameBits(after!, expected, "pages");
});
