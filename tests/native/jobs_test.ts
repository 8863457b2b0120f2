/** Jobs that wait for each other across devices, copies, views of memory, and when things ran. */
import assert from "node:assert/strict";
import {
  type Device,
  DeviceSegment,
  type Job,
  LoadedProgram,
  NativeError,
  type SegmentMove,
} from "../../ffi/device.ts";
import { STATUS } from "../../ffi/symbols.ts";
import { type Op, POINTWISE } from "../../ir/op.ts";
import {
  assertSameBits,
  device,
  floats,
  generator,
  normal,
  ONE,
  prepare,
  program,
  value,
} from "./harness.ts";

const devices: readonly Device[] = [device(1, 0), device(1, 1), device(2, 2)];

/** A program that adds 1 to every element of its arena, `times` times. */
function increments(elements: number, times = 1): LoadedProgram {
  const x = value(0, elements), y = value(1, elements);
  const attrs = [elements, 1, 2, 1, 1, POINTWISE.constant, 1, 0, 0, POINTWISE.add, 0, 1, 0, 2];
  const op: Op = { kind: "pointwise", ins: [x], outs: [y], attrs };
  return LoadedProgram.load(program(Array(times).fill(op), new Map([[x, 0], [y, 0]]), 4 * elements));
}

/** A job that fails: row 2 of 2. */
function failing(on: Device, label: string | null = null, after: readonly Job[] = []): Job {
  const { program, arena } = prepare("gatherRows", [floats(1, 2), Int32Array.of(2)], [1], [1, 1, 2]);
  using loaded = LoadedProgram.load(program);
  using _memory = arena;
  return on.submit(loaded, { arena }, ONE, { after, ...(label !== null && { label }) });
}
const REASON = "operation 0 (gatherRows): row 0 is 2 and there are 2";

async function errorOf(job: Job): Promise<NativeError> {
  const error = await job.done.then(() => assert.fail("it did not fail"), (e) => e);
  assert.ok(error instanceof NativeError, `${error}`);
  return error;
}

Deno.test("a job begins when the jobs that it waits for have ended, whatever devices they run on", async () => {
  using add = increments(3000);
  using arena = new DeviceSegment(12000);
  const next = generator(1), jobs: Job[] = [];
  // Every job changes the same memory: any two that overlap would lose something.
  for (let i = 0; i < 600; i++) {
    const after = jobs.slice(-1 - Math.floor(3 * next()));
    jobs.push(devices[Math.floor(3 * next())]!.submit(add, { arena }, ONE, { after }));
  }
  const spans = await Promise.all(jobs.map((job) => job.done));
  spans.slice(1).forEach((span, i) => assert.ok(spans[i]!.end <= span.begin && span.begin <= span.end));
  assert.ok(arena.read(0, new Float32Array(3000)).every((x) => x === 600));
});

Deno.test("spans are on the clock of performance.now()", async () => {
  using add = increments(100000, 50);
  using arena = new DeviceSegment(400000);
  const before = performance.now(), job = devices[0]!.submit(add, { arena }, ONE);
  const { begin, end } = await job.done, after = performance.now();
  assert.ok(before <= begin + .1 && begin < end && end <= after + .1, `${[before, begin, end, after]}`);
});

Deno.test("what waits for a failed job fails with its reason, and everything else goes on", async () => {
  using add = increments(16);
  using arena = new DeviceSegment(64);
  const run = (rank: number, after: readonly Job[]) => devices[rank]!.submit(add, { arena }, ONE, { after });
  const first = failing(devices[0]!, "epoch 3"), second = run(1, [first]), third = run(2, [second]);
  const free = run(1, []);
  assert.equal((await errorOf(first)).message, `Cannot run epoch 3: ${REASON}`);
  for (const job of [second, third]) {
    const error = await errorOf(job);
    assert.equal(error.message, `Cannot run pointwise: it waited for a job that failed: ${REASON}`);
    assert.equal(error.status, STATUS.CANCELLED);
  }
  await free.done;
  // Long after it has failed, and beside a job that has ended well.
  assert.match((await errorOf(run(0, [free, first]))).message, /it waited for a job that failed/);
  await run(0, [free]).done;
  assert.deepEqual([...arena.read(0, floats(0, 0))], [2, 2]);
});

Deno.test("a failed job that nobody awaits ends nothing else", async () => {
  failing(devices[0]!);
  using add = increments(16);
  using arena = new DeviceSegment(64);
  await devices[0]!.submit(add, { arena }, ONE).done;
});

Deno.test("a cancelled device stops waiting for other devices' jobs at once", async () => {
  using long = increments(1 << 20, 600);
  using add = increments(16);
  using arena = new DeviceSegment(4 << 20);
  using small = new DeviceSegment(64);
  const slow = devices[0]!.submit(long, { arena }, ONE);
  const waits = devices[1]!.submit(add, { arena: small }, ONE, { after: [slow] });
  const last = devices[2]!.submit(add, { arena: small }, ONE, { after: [waits] });
  devices[1]!.cancel(true);
  devices[1]!.cancel(false);
  assert.equal((await errorOf(waits)).message, "Cannot run pointwise: it was cancelled");
  assert.match((await errorOf(last)).message, /it waited for a job that failed: it was cancelled/);
  const cancelled = performance.now(), { end } = await slow.done;
  assert.ok(cancelled < end, "the job that they waited for was still running");
});

// ---- copies ------------------------------------------------------------------------------------------------------

Deno.test("copy() moves runs with strides, as a whole or blended", async () => {
  const next = generator(2), pick = (n: number) => Math.floor(n * next());
  for (let round = 0; round < 40; round++) {
    const weight = round % 3 === 0 ? .3 : 1, size = round % 10 === 0 ? 300_000 : 4000;
    const source = normal(size, next), target = normal(size, next), expected = target.slice();
    using from = new DeviceSegment(4 * size);
    using to = new DeviceSegment(4 * size);
    from.write(0, source);
    to.write(0, target);
    const moves: SegmentMove[] = [];
    // Each move has a stripe of the target of its own.
    const stripes = 1 + pick(5), width = Math.floor(size / stripes);
    for (let s = 0; s < stripes; s++) {
      const bytes = pick(width / 3), toStride = bytes + pick(20), fromStride = pick(bytes + 30);
      const count = toStride > 0 ? 1 + pick(Math.min(50, (width - bytes) / toStride)) : 1;
      const room = size - bytes - (count - 1) * fromStride;
      if (room < 0) continue;
      const fromOffset = pick(room + 1), toOffset = s * width;
      for (let r = 0; r < count; r++) {
        for (let i = 0; i < bytes; i++) {
          const [a, b] = [fromOffset + r * fromStride + i, toOffset + r * toStride + i];
          const w = Math.fround(weight), rest = Math.fround(1 - w);
          expected[b] = weight === 1
            ? source[a]!
            : Math.fround(w * source[a]!) + Math.fround(rest * target[b]!);
        }
      }
      const n = { fromOffset, toOffset, bytes, fromStride, toStride };
      const inBytes = Object.fromEntries(Object.entries(n).map(([k, v]) => [k, 4 * v])) as typeof n;
      moves.push({ from, to, count, ...inBytes });
    }
    await devices[round % 3]!.copy(moves, { weight }).done;
    assertSameBits(to.read(0, new Float32Array(size)), expected, `round ${round}`);
    assertSameBits(from.read(0, new Float32Array(size)), source, "the source");
  }
});

Deno.test("copy() waits, is waited for, and refuses what is not inside", async () => {
  using add = increments(1024, 100);
  using arena = new DeviceSegment(4096);
  using to = new DeviceSegment(4096);
  const whole = {
    from: arena,
    to,
    fromOffset: 0,
    toOffset: 0,
    bytes: 4096,
    count: 1,
    fromStride: 0,
    toStride: 0,
  };
  const filled = devices[0]!.submit(add, { arena }, ONE);
  const moved = devices[1]!.copy([whole], { after: [filled] });
  await devices[2]!.submit(add, { arena: to }, ONE, { after: [moved] }).done;
  assert.ok(to.read(0, new Float32Array(1024)).every((x) => x === 200));
  const refused = (change: Partial<SegmentMove>, why: RegExp) =>
    assert.throws(() => devices[0]!.copy([whole, { ...whole, ...change }], { label: "a move" }), why);
  refused({ fromOffset: 4 }, /Cannot run a move: move 1 ends at 4100 of a segment of 4096/);
  refused({ bytes: 1024, count: 4, toStride: 1024, fromStride: 1028 }, /move 1 ends at 4108/);
  refused({ bytes: 1024, count: 3, toStride: 2048, fromStride: 0 }, /move 1 ends at 5120/);
  refused({ bytes: 1023 }, /move 1 is not in multiples of 2 bytes/);
  assert.throws(
    () => devices[0]!.copy([whole, { ...whole, bytes: 1022 }], { weight: 0.5 }),
    /move 1 is not in multiples of 4 bytes/,
  );
  refused({ bytes: 64, count: 2, toStride: 32 }, /move 1 writes runs over each other/);
  const freed = new DeviceSegment(4096);
  freed.dispose();
  refused({ from: freed }, /the handle is not open/);
  await devices[0]!.copy([]).done;
});

// ---- views -------------------------------------------------------------------------------------------------------

Deno.test("a view is a part of the memory, and keeps it", async () => {
  const whole = new DeviceSegment(1 << 20), view = whole.view(4096, 64), inner = view.view(64, 0);
  assert.equal(view.bytes, 64);
  whole.write(4096, floats(1, 2, 3));
  assert.deepEqual([...view.read(0, floats(0, 0, 0))], [1, 2, 3]);
  using add = increments(16);
  await devices[0]!.submit(add, { arena: view }, ONE).done;
  assert.deepEqual([...whole.read(4096, floats(0, 0, 0))], [2, 3, 4]);
  assert.equal(whole.read(4096 + 64, floats(9))[0], 0);
  assert.throws(() => view.read(64, floats(0)), NativeError);
  assert.throws(() => whole.view(32, 4), /Cannot view 4 bytes at 32 of a segment of 1048576/);
  assert.throws(() => whole.view(1 << 20, 4), NativeError);
  assert.throws(() => view.view(0, 65), NativeError);
  whole.dispose();
  await devices[0]!.submit(add, { arena: view }, ONE).done;
  assert.deepEqual([...view.read(0, floats(0, 0, 0))], [3, 4, 5]);
  inner.dispose();
  const queued = devices[0]!.submit(add, { arena: view }, ONE);
  view.dispose();
  await queued.done;
});
