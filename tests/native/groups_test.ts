/** Groups whose ranks fail, stay away, are cancelled or go: everybody stops at once and says why. */
import assert from "node:assert/strict";
import { cpuUsage } from "node:process";
import { Device, DeviceSegment, Group, type Job, LoadedProgram, NativeError } from "../../ffi/device.ts";
import { STATUS } from "../../ffi/symbols.ts";
import { type Attr, AXES, type Op, type OpKind } from "../../ir/op.ts";
import {
  assertSameBits,
  device,
  floats,
  generator,
  normal,
  ONE,
  onEveryAxis,
  prepare,
  program,
  value,
} from "./harness.ts";

const N = 1 << 16, BYTES = 4 * N;

/** Sums the arena over the ranks, `times` times, in place. */
function reductions(times = 1, elements = N): LoadedProgram {
  const x = value(0, elements), attrs = [elements, AXES.indexOf("dp")];
  const op: Op = { kind: "allReduce", ins: [x], outs: [x], attrs };
  return LoadedProgram.load(program(Array(times).fill(op), new Map([[x, 0]]), 4 * elements));
}
/** An operation that fails on its device: row 2 of 2. */
function failing(on: Device, group: Group, rank: number): Job {
  const { program, arena } = prepare("gatherRows", [floats(1, 2), Int32Array.of(2)], [1], [1, 1, 2]);
  using loaded = LoadedProgram.load(program);
  using _memory = arena;
  return on.submit(loaded, { arena }, ONE, { groups: { dp: { group, rank } } });
}
const REASON = "operation 0 (gatherRows): row 0 is 2 and there are 2";

/** Starts a program on some ranks, each with memory of its own that nobody else keeps. */
function start(
  program: LoadedProgram,
  group: Group,
  ranks: readonly number[],
  on = (rank: number) => device(1, rank),
): Job[] {
  return ranks.map((rank) => {
    using arena = new DeviceSegment(program.program.segmentBytes.arena);
    return on(rank).submit(program, { arena }, ONE, { groups: onEveryAxis(group, rank), label: "sums" });
  });
}
async function errors(jobs: readonly Job[]): Promise<NativeError[]> {
  const ends = await Promise.allSettled(jobs.map((job) => job.done));
  return ends.map((end) => {
    assert.ok(end.status === "rejected", "it ended well");
    return end.reason;
  });
}
/** Fails when a test waited for a deadline of ten seconds or more. */
async function promptly(test: () => Promise<void>): Promise<void> {
  const begin = performance.now();
  await test();
  assert.ok(performance.now() - begin < 5000, "it took too long");
}

Deno.test("a rank that never comes is reported at the deadline, and when it comes", async () => {
  using sum = reductions();
  using group = Group.create(4, .15);
  const waiting = start(sum, group, [0, 2]), found = await errors(waiting);
  const text = "operation 0 (allReduce): ranks 1, 3 of 4 did not arrive within 0.15 s";
  for (const e of found) assert.equal(e.message, `Cannot run sums: ${text}`);
  assert.deepEqual(found.map((e) => e.status).sort(), [STATUS.FAILED, STATUS.CANCELLED].sort());
  const [late] = await errors(start(sum, group, [1]));
  assert.equal(late!.message, "Cannot run sums: ranks 1, 3 of 4 did not arrive within 0.15 s");
  assert.equal(late!.status, STATUS.CANCELLED);
});

Deno.test("when a rank fails the others stop at once and name it", () =>
  promptly(async () => {
    using sum = reductions(3);
    using group = Group.create(3, 60);
    const waiting = start(sum, group, [0, 1]), failed = failing(device(1, 2), group, 2);
    const [own] = await errors([failed]);
    assert.deepEqual([own!.message, own!.status], [`Cannot run gatherRows: ${REASON}`, STATUS.FAILED]);
    for (const e of await errors(waiting)) {
      const where = /^Cannot run sums: (operation 0 \(allReduce\): )?/;
      assert.equal(e.message.replace(where, ""), `it stopped because rank 2 failed: ${REASON}`);
      assert.equal(e.status, STATUS.CANCELLED);
    }
    // What comes later to the same group does not even begin.
    const [after] = await errors(start(sum, group, [0]));
    assert.equal(after!.message, `Cannot run sums: it stopped because rank 2 failed: ${REASON}`);
  }));

Deno.test("a rank that cannot begin, because a job before it failed, ends its groups too", () =>
  promptly(async () => {
    using sum = reductions();
    using group = Group.create(2, 60);
    using alone = Group.create(1, 60);
    const [waiting] = start(sum, group, [0]), failed = failing(device(1, 3), alone, 0);
    using arena = new DeviceSegment(BYTES);
    using long = reductions(20000);
    using other = Group.create(1, 60);
    const [busy] = start(long, other, [0], () => device(1, 1));
    // It is queued behind a job that runs for long.
    const doomed = device(1, 1).submit(sum, { arena }, ONE, {
      groups: onEveryAxis(group, 1),
      after: [failed],
    });
    const [error] = await errors([waiting!]);
    assert.match(
      error!.message,
      /stopped because rank 1 failed: it waited for a job that failed: operation 0/,
    );
    const stopped = performance.now();
    assert.ok(stopped < (await busy!.done).end, "the other rank had not come to it yet");
    await errors([doomed]);
  }));

for (const how of ["cancelled", "closed"] as const) {
  Deno.test(`a device that is ${how} in a collective, or with one in its queue, stops all ranks`, () =>
    promptly(async () => {
      using sum = reductions();
      for (const queued of [false, true]) {
        const devices = [0, 1, 2].map(() => Device.open({ threads: 1 }));
        using group = Group.create(3, 60);
        using solo = Group.create(1, 60);
        const on = (rank: number) => devices[rank]!;
        // Rank 1 waits in the operation, or has not come to it yet.
        const first = queued ? start(reductions(3000), solo, [0], () => devices[1]!) : [];
        const jobs = start(sum, group, [0, 1], on);
        if (!queued) await new Promise((done) => setTimeout(done, 20));
        how === "cancelled" ? devices[1]!.cancel(true) : devices[1]!.close();
        const reason = how === "cancelled" ? "it was cancelled" : "the device was closed";
        const [other, own] = await errors(jobs);
        assert.match(
          own!.message,
          new RegExp(`^Cannot run sums: (operation 0 \\(allReduce\\): )?${reason}$`),
        );
        assert.match(other!.message, new RegExp(`it stopped because rank 1 failed: ${reason}`));
        assert.deepEqual([own!.status, other!.status], [STATUS.CANCELLED, STATUS.CANCELLED]);
        await Promise.allSettled(first.map((job) => job.done));
        for (const d of devices) d.close();
      }
    }));
}

Deno.test("memory of a rank that goes while others read it stays until they have stopped", () =>
  promptly(async () => {
    const next = generator(1);
    // Most of the time is spent reading what others offer.
    using sum = reductions(100, 1 << 20);
    for (let round = 0; round < 40; round++) {
      const devices = [0, 1, 2, 3].map(() => Device.open({ threads: 1 }));
      using group = Group.create(4, 60);
      // The jobs alone keep the memory: it is unmapped as soon as one has ended.
      const jobs = start(sum, group, [0, 1, 2, 3], (rank) => devices[rank]!);
      const ends = Promise.allSettled(jobs.map((job) => job.done));
      await new Promise((done) => setTimeout(done, 5 + 10 * next()));
      devices[round % 4]!.close();
      await ends;
      for (const d of devices) d.close();
    }
  }));

Deno.test("ranks that wait leave the cores to others", async () => {
  /** Seconds of processor time that this process has used. */
  const used = () => (cpuUsage().user + cpuUsage().system) / 1e6;
  using sum = reductions();
  using group = Group.create(4, 1);
  const before = used();
  await errors(start(sum, group, [0, 1, 2]));
  assert.ok(used() - before < .3, `${used() - before} s of processor time in one second of waiting`);
});

Deno.test("submit() refuses a rank that is not there or is another device's", async () => {
  using sum = reductions();
  using group = Group.create(1, 10);
  using arena = new DeviceSegment(BYTES);
  const submit = (rank: number, on: number) => () =>
    device(1, on).submit(sum, { arena }, ONE, { groups: { dp: { group, rank } } });
  assert.throws(submit(1, 0), /Cannot run allReduce: rank 1 of a dp group of 1/);
  await submit(0, 0)().done;
  assert.throws(submit(0, 1), /a rank belongs to another device/);
  const [error] = await errors([device(1, 0).submit(sum, { arena }, ONE)]);
  assert.match(error!.message, /operation 0 \(allReduce\): the job was submitted without a group for axis 3/);
  assert.throws(() => Group.create(0, 10), NativeError);
});

Deno.test("groups of every size meet thousands of times", async () => {
  using sum = reductions(200);
  for (const size of [2, 3, 8]) {
    using group = Group.create(size, 60);
    const arenas = Array.from({ length: size }, () => new DeviceSegment(BYTES));
    const jobs: Job[] = [];
    for (let i = 0; i < 5; i++) {
      arenas.forEach((arena, rank) =>
        jobs.push(device(1, rank).submit(sum, { arena }, ONE, { groups: onEveryAxis(group, rank) }))
      );
    }
    await Promise.all(jobs.map((job) => job.done));
    for (const arena of arenas) arena.dispose();
  }
});

Deno.test("a process ends at once with ranks that wait", () =>
  promptly(async () => {
    const url = (file: string) => new URL(file, import.meta.url).href;
    const code = `import { Device, DeviceSegment, Group, LoadedProgram } from "${url("../../ffi/device.ts")}";
      import { onEveryAxis, ONE, program, value } from "${url("./harness.ts")}";
      const x = value(0, 16), group = Group.create(3, 60), arena = new DeviceSegment(64);
      const op = { kind: "allReduce", ins: [x], outs: [x], attrs: [16, 0] };
      const sum = LoadedProgram.load(program([op], new Map([[x, 0]]), 64));
      for (const rank of [0, 1]) {
        Device.open({ threads: 2 }).submit(sum, { arena }, ONE, { groups: onEveryAxis(group, rank) });
      }
      setTimeout(() => { console.log("done"); Deno.exit(0); }, 50);`;
    const { success, stdout } = await new Deno.Command(Deno.execPath(), {
      args: ["eval", "--no-check", code],
      stdout: "piped",
    }).output();
    assert.ok(success);
    assert.equal(new TextDecoder().decode(stdout).trim(), "done");
  }));

// ---- what the loader refuses, and rows in their place --------------------------------------------------------------

/** A program of one operation whose operands lie at these bytes. */
function placed(
  kind: OpKind,
  ins: [elements: number, at: number][],
  outs: [elements: number, at: number][],
  attrs: readonly Attr[],
) {
  const places = new Map([...ins, ...outs].map(([n, at], i) => [value(i, n), at])),
    values = [...places.keys()];
  const op: Op = { kind, ins: values.slice(0, ins.length), outs: values.slice(ins.length), attrs };
  return program([op], places, 4096);
}

Deno.test("load() refuses an axis, a shard or a place that cannot be", () => {
  const load = (p: ReturnType<typeof placed>) => LoadedProgram.load(p).dispose();
  load(placed("allReduce", [[64, 0]], [[64, 0]], [64, 4]));
  load(placed("allReduce", [[64, 0]], [[64, 256]], [64, 0]));
  const refused = (p: ReturnType<typeof placed>, why: RegExp) => assert.throws(() => load(p), why);
  refused(
    placed("allReduce", [[64, 0]], [[64, 0]], [64, 5]),
    /operation 0 \(allReduce\): axis is not one of 5/,
  );
  refused(placed("allReduce", [[64, 0]], [[64, 64]], [64, 0]), /y lies over x/);
  refused(placed("allReduce", [[64, 0]], [[60, 256]], [64, 0]), /y has 240 bytes and needs 256/);
  refused(placed("sumDoubles", [[32, 0]], [[32, 64]], [16, 0]), /y lies over x/);
  refused(placed("sumDoubles", [[31, 0]], [[32, 128]], [16, 0]), /x has 124 bytes and needs 128/);
  load(placed("allGatherRows", [[16, 64]], [[64, 0]], [4, 16, 0]));
  refused(
    placed("allGatherRows", [[16, 256 - 64], [0, 0]].slice(0, 1) as [number, number][], [[48, 0]], [
      4,
      16,
      0,
    ]),
    /y has 192 bytes and needs 256/,
  );
  refused(placed("allGatherRows", [[32, 192]], [[64, 0]], [4, 16, 0]), /y lies over x/);
  refused(placed("reduceScatterRows", [[64, 64]], [[32, 0]], [4, 16, 0]), /y lies over x/);
  refused(placed("ownRows", [[64, 0]], [[32, 192]], [4, 16, 0]), /y lies over x/);
  refused(placed("allGatherColumns", [[16, 0]], [[64, 0]], [4, 16, 0, 4, 0]), /y lies over x/);
  refused(placed("allGatherColumns", [[16, 0]], [[64, 64]], [4, 16, 4, 9, 0]), /x has 64 bytes and needs 80/);
  refused(
    placed("allGatherColumns", [[16, 0]], [[64, 64]], [4, 16, 9, 4, 0]),
    /columns from … to are not inside W/,
  );
  refused(placed("norm", [[32, 0]], [[1, 64]], [16]), /norm lies over sums/);
  refused(placed("squareSums", [[64, 0]], [[4, 64]], [2, 64, 0]), /sums lies over gradient 0/);
  refused(placed("squareSums", [[64, 0]], [[4, 256]], [2, 64, 2]), /index of gradient 0 is not below count/);
  refused(placed("squareSums", [[64, 0]], [[2, 256]], [2, 64, 1]), /sums has 8 bytes and needs 16/);
  refused(
    placed("embedding", [[4, 0], [64, 64]], [[64, 512]], [4, 4, 16, 0, 5, 8]),
    /first \+ V is more than total/,
  );
  const shard = (work: number) =>
    placed("shardLogprob", [[16, 0], [256, 64], [1, 1088], [1, 1152]], [[1, 1216], [1, 1280], [3, work]], [
      1,
      16,
      16,
      0,
      16,
      32,
      0,
      0,
      1,
    ]);
  load(shard(1344));
  refused(shard(64), /work lies over w/);
  refused(shard(1280), /lies over/);
});

Deno.test("own rows may lie in their place in the whole, and nowhere else in it", async () => {
  const rows = 8, width = 16, size = 2, x = [0, 1].map((seed) => normal(rows * width, generator(seed)));
  const run = async (kind: OpKind, whole: number, own: (rank: number) => number) => {
    using group = Group.create(size, 10);
    const arenas = x.map((data) => {
      const arena = new DeviceSegment(4096);
      arena.write(whole, data);
      return arena;
    });
    const jobs = arenas.map((arena, rank) => {
      const all: [number, number][] = [[rows * width, whole]],
        mine: [number, number][] = [[rows * width / 2, own(rank)]];
      const [ins, outs] = kind === "allGatherRows" ? [mine, all] : [all, mine];
      using loaded = LoadedProgram.load(placed(kind, ins, outs, [rows, width, 0]));
      return device(1, rank).submit(loaded, { arena }, ONE, { groups: onEveryAxis(group, rank) });
    });
    await Promise.all(jobs.map((job) => job.done));
    return arenas.map((arena) => arena.read(whole, new Float32Array(rows * width)));
  };
  const half = rows * width * 2, place = (rank: number) => 512 + rank * half, first = rows * width / 2;
  const gathered = await run("allGatherRows", 512, place);
  const joined = Float32Array.from([...x[0]!.slice(0, first), ...x[1]!.slice(first)]);
  for (const y of gathered) assertSameBits(y, joined, "gathered");
  const scattered = await run("reduceScatterRows", 512, place);
  scattered.forEach((y, rank) => {
    const own = (i: number) => Math.floor(i / first) === rank;
    assertSameBits(y, x[rank]!.map((v, i) => own(i) ? Math.fround(x[0]![i]! + x[1]![i]!) : v), "scattered");
  });
  (await run("ownRows", 512, place)).forEach((y, rank) => assertSameBits(y, x[rank]!, "own rows"));
  for (const kind of ["allGatherRows", "reduceScatterRows", "ownRows"] as const) {
    await assert.rejects(run(kind, 512, () => 512 + 64), /the rows of rank \d lie over rows of another rank/);
  }
});
