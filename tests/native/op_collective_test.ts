/** Collective operations against plain sums and copies, over group sizes, uneven and missing rows, on every instruction set. */
import assert from "node:assert/strict";
import { Group, LoadedProgram, NativeError } from "../../ffi/device.ts";
import { AXES, type OpKind, ownRows } from "../../ir/op.ts";
import {
  assertSameBits,
  type Data,
  device,
  doubles,
  everywhere,
  generator,
  normal,
  ONE,
  onEveryAxis,
  type Out,
  prepare,
  runRanks,
} from "./harness.ts";

type Floats = Float32Array<ArrayBuffer>;
const SIZES = [1, 2, 3, 4, 7], axis = AXES.indexOf("dp");

/** One operation on all ranks with the same attributes; the first output of each. */
const run = async (
  kind: OpKind,
  ins: readonly Data[],
  out: (rank: number) => Out,
  attrs: readonly number[],
  threads: number,
): Promise<Floats[]> =>
  (await runRanks(kind, ins.map((x, rank) => ({ ins: [x], outs: [out(rank)], attrs })), threads)).map((
    outs,
  ) => outs[0]!);

/** r0 + r1 + r2 …, rounded after every addition. */
const sum = (parts: readonly Floats[]): Floats =>
  parts.slice(1).reduce((total, x) => total.map((t, i) => t + x[i]!), parts[0]!.slice());
const shares = (n: number, next: () => number, size: number) =>
  Array.from({ length: size }, () => normal(n, next));

Deno.test("allReduce() sums over ranks in their order, small and large, in place and not", () =>
  everywhere(async (threads) => {
    const next = generator(1);
    for (const size of SIZES) {
      for (const n of [0, 1, 17, 100, 5000, 40001]) {
        const x = shares(n, next, size), expected = sum(x);
        for (const out of [n, { inPlace: 0 }]) {
          const found = await run("allReduce", x, () => out, [n, axis], threads);
          found.forEach((y, rank) => assertSameBits(y, expected, `${n} elements, rank ${rank} of ${size}`));
        }
      }
    }
  }));

Deno.test("sumDoubles() sums doubles over ranks in their order", () =>
  everywhere(async (threads) => {
    const next = generator(2);
    for (const size of SIZES) {
      for (const n of [1, 3, 300, 9001]) {
        const x = Array.from({ length: size }, () => Float64Array.from({ length: n }, () => next() - .5));
        const expected = x.slice(1).reduce((total, y) => total.map((t, i) => t + y[i]!), x[0]!.slice());
        for (const out of [2 * n, { inPlace: 0 }]) {
          const found = await run("sumDoubles", x.map((y) => doubles(...y)), () => out, [n, axis], threads);
          found.forEach((y, rank) =>
            assertSameBits(y, doubles(...expected), `${n} doubles, rank ${rank} of ${size}`)
          );
        }
      }
    }
  }));

/** Rows and widths: fewer rows than ranks, none, rows that do not divide, and more than fits a group's stages. */
const SHAPES = [[0, 5], [1, 7], [3, 16], [7, 33], [64, 100], [301, 130]] as const;

Deno.test("allGatherRows() puts the rows of every rank in their place", () =>
  everywhere(async (threads) => {
    const next = generator(3);
    for (const size of SIZES) {
      for (const [rows, width] of SHAPES) {
        const whole = normal(rows * width, next),
          parts = Array.from({ length: size }, (_, rank) => {
            const [from, to] = ownRows(rows, rank, size);
            return whole.slice(from * width, to * width);
          });
        const found = await run("allGatherRows", parts, () => rows * width, [rows, width, axis], threads);
        found.forEach((y, rank) => assertSameBits(y, whole, `${rows}×${width}, rank ${rank} of ${size}`));
      }
    }
  }));

Deno.test("reduceScatterRows() and ownRows() give every rank its own rows", () =>
  everywhere(async (threads) => {
    const next = generator(4);
    for (const size of SIZES) {
      for (const [rows, width] of SHAPES) {
        const x = shares(rows * width, next, size), total = sum(x);
        const own = (a: Floats, rank: number) => {
          const [from, to] = ownRows(rows, rank, size);
          return a.slice(from * width, to * width);
        };
        const out = (rank: number) => own(total, rank).length, attrs = [rows, width, axis];
        const [sums, copies] = [
          await run("reduceScatterRows", x, out, attrs, threads),
          await run("ownRows", x, out, attrs, threads),
        ];
        for (let rank = 0; rank < size; rank++) {
          assertSameBits(sums[rank]!, own(total, rank), `sum of ${rows}×${width}, rank ${rank} of ${size}`);
          assertSameBits(copies[rank]!, own(x[rank]!, rank), `${rows}×${width}, rank ${rank} of ${size}`);
        }
      }
    }
  }));

Deno.test("reduceOwnRows() sums the rows that a rank owns of the whole and leaves the others, in place and not", () =>
  everywhere(async (threads) => {
    const next = generator(7);
    for (const size of SIZES) {
      for (
        const [total, first, rows, width] of [[9, 0, 9, 5], [9, 4, 3, 64], [40, 11, 20, 33], [
          6,
          2,
          0,
          3,
        ]] as const
      ) {
        const x = shares(rows * width, next, size), sums = sum(x);
        const attrs = [rows, width, first, total, axis];
        for (const out of [rows * width, { inPlace: 0 }]) {
          const found = await run("reduceOwnRows", x, () => out, attrs, threads);
          found.forEach((y, rank) => {
            const [from, to] = ownRows(total, rank, size);
            const expected = x[rank]!.map((v, i) => {
              const row = first + Math.floor(i / width);
              return row >= from && row < to ? sums[i]! : v;
            });
            assertSameBits(
              y,
              expected,
              `rows ${first} to ${first + rows} of ${total}, rank ${rank} of ${size}`,
            );
          });
        }
      }
    }
  }));

Deno.test("allGatherColumns() joins columns of any width", () =>
  everywhere(async (threads) => {
    const next = generator(5);
    for (const size of SIZES) {
      for (const [rows, width] of SHAPES) {
        const whole = normal(rows * width, next);
        // Every cut is legal, empty ones too.
        const cuts = [0, ...Array.from({ length: size - 1 }, () => Math.floor(next() * (width + 1))), width]
          .sort((a, b) => a - b);
        const ranks = Array.from({ length: size }, (_, rank) => {
          const [from, to] = [cuts[rank]!, cuts[rank + 1]!];
          const x = whole.filter((_, i) => i % width >= from && i % width < to);
          return { ins: [x], outs: [rows * width], attrs: [rows, width, from, to, axis] };
        });
        const found = await runRanks("allGatherColumns", ranks, threads);
        found.forEach(([y], rank) => assertSameBits(y!, whole, `${rows}×${width}, rank ${rank} of ${size}`));
      }
    }
  }));

Deno.test("ranks that come with different sizes, columns or room fail with what differs", async () => {
  const x = new Float32Array(12),
    part = (attrs: number[], out: number, kind: OpKind = "allReduce") => ({
      kind,
      ranks: { ins: [x], outs: [out], attrs },
    });
  const both = (kind: OpKind, a: number[], b: number[], out: readonly [number, number]) =>
    runRanks(kind, [part(a, out[0]).ranks, part(b, out[1]).ranks]);
  await assert.rejects(
    both("allReduce", [12, axis], [11, axis], [12, 12]),
    /operation 0 \(allReduce\): rank \d came with 1\d × 1 elements and this rank, \d, with 1\d × 1/,
  );
  await assert.rejects(
    both("allGatherColumns", [2, 6, 0, 3, axis], [2, 6, 4, 6, axis], [12, 12]),
    /rank 1 brings columns 4 to 6 of 6, which leaves a gap or an overlap/,
  );
  await assert.rejects(
    both("allGatherColumns", [2, 6, 0, 3, axis], [2, 6, 3, 5, axis], [12, 12]),
    /rank 1 brings columns 3 to 5 of 6/,
  );
  await assert.rejects(
    both("reduceScatterRows", [4, 3, axis], [4, 3, axis], [6, 5]),
    /rank 1 of 2 owns 2 rows and its operand has room for 20 bytes/,
  );
  await assert.rejects(
    both("allGatherRows", [12, 3, axis], [12, 3, axis], [36, 36]),
    /rank \d of 2 owns 6 rows and its operand has room for 48 bytes/,
  );
});

Deno.test("a damaged program of another rank is refused, or fails, or does a rank's own memory no harm", async () => {
  const next = generator(6),
    size = 2,
    rows = 6,
    width = 20,
    n = rows * width,
    seen = { refused: 0, failed: 0, ran: 0 };
  const own = n / size, x = normal(n, next), half = x.slice(0, own);
  const forms: readonly [OpKind, Floats, number, (rank: number) => readonly number[]][] = [
    ["allReduce", x, n, () => [n, axis]],
    ["sumDoubles", x, n, () => [n / 2, axis]],
    ["allGatherRows", half, n, () => [rows, width, axis]],
    ["reduceScatterRows", x, own, () => [rows, width, axis]],
    ["ownRows", x, own, () => [rows, width, axis]],
    ["reduceOwnRows", x, n, () => [rows, width, 3, 12, axis]],
    ["allGatherColumns", half, n, (rank) => [rows, width, 10 * rank, 10 * rank + 10, axis]],
  ];
  for (const [kind, data, out, attrs] of forms) {
    for (let i = 0; i < 60; i++) {
      using group = Group.create(size, .2);
      const ranks = [0, 1].map((rank) => prepare(kind, [data], [out], attrs(rank)));
      const bytes = ranks[1]!.program.bytes.slice(), header = bytes.length - 8 - 32 - 8 * attrs(1).length;
      if (i % 2) {
        // A smaller number in place of an attribute passes the loader more often than flipped bits.
        const k = Math.floor(next() * attrs(1).length), at = header + 8 + 32 + 8 * k;
        const view = new DataView(bytes.buffer), smaller = Math.floor(next() * (attrs(1)[k]! + 1));
        if (k === 0 && kind !== "sumDoubles") view.setUint32(at + 4, smaller, true);
        else view.setFloat64(at, smaller, true);
      } else {
        bytes[header + Math.floor(next() * (bytes.length - header))]! ^= 1 << Math.floor(next() * 8);
      }
      try {
        using other = LoadedProgram.load({ ...ranks[1]!.program, bytes });
        using good = LoadedProgram.load(ranks[0]!.program);
        const jobs = [good, other].map((loaded, rank) =>
          device(1, rank).submit(loaded, { arena: ranks[rank]!.arena }, ONE, {
            groups: onEveryAxis(group, rank),
          })
        );
        const ends = await Promise.allSettled(jobs.map((job) => job.done));
        seen[ends.some((end) => end.status === "rejected") ? "failed" : "ran"]++;
      } catch (e) {
        if (!(e instanceof NativeError)) throw e;
        seen.refused++;
      }
      ranks[0]!.check();
      for (const { arena } of ranks) arena.dispose();
    }
  }
  for (const [what, count] of Object.entries(seen)) assert.ok(count > 20, `${count} ${what}`);
});
