/**
 * `run_hazards.ts SEED ROUNDS`: random programs with collective operations and random copies over a few regions of memory, many of them
 * in flight on three devices; prints a digest of the memory after every round. Whatever runs beside what, it is that of one job
 * after the other.
 */
import {
  Device,
  DeviceSegment,
  Group,
  type Job,
  LoadedProgram,
  type SegmentMove,
} from "../../../ffi/device.ts";
import { AXES, type Op, ownRows, POINTWISE, type Value } from "../../../ir/op.ts";
import { generator, normal, ONE, onEveryAxis, program, value } from "../harness.ts";

const [seed, rounds] = Deno.args.map(Number) as [number, number];
const RANKS = 3,
  REGIONS = 7,
  ROWS = 5,
  WIDTH = 64,
  N = ROWS * WIDTH,
  BYTES = 4 * N,
  axis = AXES.indexOf("dp");
const next = generator(seed), pick = (n: number) => Math.floor(n * next());
const spread = Deno.env.get("HAZARDS_GPUS") === "1";
const devices = Array.from({ length: RANKS }, (_, i) => Device.open({ threads: 1, gpu: spread ? i : 0 }));
const memory = devices.map((near) => new DeviceSegment(REGIONS * BYTES, { near }));
const group = Group.create(RANKS, 60);

/** What all ranks do: the same operations, each on its own rows. */
function operations(rank: number, choices: readonly (readonly number[])[]): LoadedProgram {
  const places = new Map<Value, number>();
  const at = (region: number, elements: number): Value => {
    const v = value(places.size, elements);
    places.set(v, region * BYTES);
    return v;
  };
  const [from, to] = ownRows(ROWS, rank, RANKS), own = (to - from) * WIDTH;
  const ops = choices.map(([kind, a, b, c]): Op => {
    const one = (kind: Op["kind"], ins: Value, outs: Value, attrs: number[]): Op => ({
      kind,
      ins: [ins],
      outs: [outs],
      attrs,
    });
    const other = a === b ? (b! + 1) % REGIONS : b!;
    switch (kind) {
      case 0:
        return one("allReduce", at(a!, N), at(a!, N), [N, axis]);
      case 1:
        return one("allReduce", at(a!, N), at(other, N), [N, axis]);
      case 2:
        return one("allGatherRows", at(a!, own), at(other, N), [ROWS, WIDTH, axis]);
      case 3:
        return one("reduceScatterRows", at(a!, N), at(other, own), [ROWS, WIDTH, axis]);
      case 4:
        return one("reduceOwnRows", at(a!, 3 * WIDTH), at(a!, 3 * WIDTH), [3, WIDTH, 1 + c! % 2, ROWS, axis]);
      default: {
        const [op, by] = c! % 2 ? [POINTWISE.mul, .3] : [POINTWISE.add, c! / 7];
        return one("pointwise", at(a!, N), at(b!, N), [
          N,
          1,
          2,
          1,
          1,
          POINTWISE.constant,
          by,
          0,
          0,
          op,
          0,
          1,
          0,
          2,
        ]);
      }
    }
  });
  return LoadedProgram.load(program(ops, places, REGIONS * BYTES));
}

/** Jobs of a device in this round, and copies of others that read or wrote its memory. */
let mine: Job[][] = [], foreign: Job[][] = [];
function submitProgram(): void {
  const choices = Array.from(
    { length: 1 + pick(24) },
    () => [pick(11), pick(REGIONS), pick(REGIONS), pick(9)],
  );
  const loaded = devices.map((_, rank) => operations(rank, choices));
  devices.forEach((device, rank) => {
    const after = foreign[rank]!.splice(0);
    mine[rank]!.push(
      device.submit(loaded[rank]!, { arena: memory[rank]! }, ONE, {
        after,
        groups: onEveryAxis(group, rank),
      }),
    );
    loaded[rank]!.dispose();
  });
}
function submitCopy(): void {
  const to = pick(RANKS), from = next() < .7 ? to : pick(RANKS), strided = next() < .5;
  const [a, b] = [pick(REGIONS), pick(REGIONS)];
  if (from === to && a === b) return;
  const run = strided
    ? { bytes: 4 * 40, count: ROWS, fromStride: 4 * WIDTH, toStride: 4 * WIDTH }
    : { bytes: BYTES, count: 1, fromStride: 0, toStride: 0 };
  const move: SegmentMove = {
    from: memory[from]!,
    to: memory[to]!,
    fromOffset: a * BYTES,
    toOffset: b * BYTES,
    ...run,
  };
  const after = [...foreign[to]!.splice(0), ...from === to ? [] : mine[from]!];
  const job = devices[to]!.copy([move], { weight: next() < .3 ? .4 : 1, after });
  mine[to]!.push(job);
  if (from !== to) foreign[from]!.push(job);
}

for (let round = 0; round < rounds; round++) {
  memory.forEach((m) => m.write(0, normal(REGIONS * N, next)));
  mine = devices.map(() => []), foreign = devices.map(() => []);
  for (let i = 0; i < 20; i++) next() < .5 ? submitProgram() : submitCopy();
  const all = [...mine.flat()];
  await Promise.all(all.map((job) => job.done));
  const bytes = Uint8Array.from(memory.flatMap((m) => [...m.read(0, new Uint8Array(REGIONS * BYTES))]));
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  console.log([...digest.slice(0, 8)].map((b) => b.toString(16).padStart(2, "0")).join(""));
}
Deno.exit(0);
