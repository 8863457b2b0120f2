/**
 * `run_links.ts moves`: copies between GPUs with strides, weights and bf16 sources, small and larger than what is sent at once, against
 * the same in TypeScript. `run_links.ts ends DEADLINE`: prints how two copies between two GPUs ended.
 */
import assert from "node:assert/strict";
import { toBfloat16, widened } from "../../../engine/half.ts";
import { Device, DeviceSegment, Group, type SegmentMove } from "../../../ffi/device.ts";
import { generator, normal } from "../harness.ts";

const devices = [0, 1, 2].map((gpu) => Device.open({ threads: 1, gpu }));
const near = (bytes: number, at: number) => new DeviceSegment(bytes, { near: devices[at]! });

/** Moves of elements, between runs in places of their own. */
interface Elements {
  readonly from: number;
  readonly to: number;
  readonly width: number;
  readonly count: number;
  readonly fromStride: number;
  readonly toStride: number;
}

async function check(
  [from, to]: readonly [number, number],
  elements: number,
  moves: readonly Elements[],
  weight: number,
  half: boolean,
): Promise<void> {
  const next = generator(elements + moves.length),
    source = normal(elements, next),
    target = normal(elements, next);
  const narrow = toBfloat16(source), seen = half ? widened(narrow) : source, expected = target.slice();
  const [w, rest] = [Math.fround(weight), Math.fround(1 - weight)];
  for (const m of moves) {
    for (let i = 0; i < m.count; i++) {
      for (let k = 0; k < m.width; k++) {
        const a = seen[m.from + i * m.fromStride + k]!, at = m.to + i * m.toStride + k;
        expected[at] = weight === 1 ? a : Math.fround(w * a) + Math.fround(rest * target[at]!);
      }
    }
  }
  const wide = half ? 2 : 4, there = near(wide * elements, from), here = near(4 * elements, to);
  there.write(0, half ? narrow : source);
  here.write(0, target);
  const list = moves.map((m): SegmentMove => ({
    from: there,
    to: here,
    fromOffset: wide * m.from,
    toOffset: 4 * m.to,
    bytes: 4 * m.width,
    count: m.count,
    fromStride: wide * m.fromStride,
    toStride: 4 * m.toStride,
    widen: half,
  }));
  await devices[to]!.copy(list, { weight }).done;
  const found = here.read(0, new Float32Array(elements)),
    bad = found.findIndex((x, i) => !Object.is(x, expected[i]));
  assert.equal(bad, -1, `${JSON.stringify(moves[0])}, weight ${weight}, ${half}: element ${bad}`);
  for (const s of [there, here]) s.dispose();
}

if (Deno.args[0] === "moves") {
  const next = generator(3), pick = (n: number) => Math.floor(n * next());
  for (let round = 0; round < 60; round++) {
    const pair = [[0, 1], [1, 0], [2, 0], [1, 2]][round % 4] as [number, number], moves: Elements[] = [];
    for (let s = 0; s < 1 + pick(40); s++) {
      const width = 2 * (1 + pick(20)), count = 1 + pick(9), gaps = [2 * pick(3), 2 * pick(3)];
      const [fromStride, toStride] = [width + gaps[0]!, width + gaps[1]!];
      moves.push({ from: 400 * s + 2 * pick(10), to: 400 * s, width, count, fromStride, toStride });
    }
    await check(pair, 20_000, moves, round % 3 ? 1 : .3, round % 5 === 0);
  }
  // More than the memory for pieces: many runs, two long ones, and one that is weighted.
  const large = { from: 0, to: 0, count: 1, fromStride: 0, toStride: 0 };
  const many = { ...large, width: 900, count: 5000, fromStride: 1000, toStride: 1010 };
  await check([0, 1], 5_060_000, [many], 1, false);
  const long = { ...large, width: 4_300_000, count: 2, fromStride: 4_400_000, toStride: 4_350_000 };
  await check([0, 1], 8_800_000, [long], 1, true);
  await check([1, 0], 4_500_000, [{ ...large, width: 4_400_000 }], .3, false);
  console.log("well");
} else {
  // Copies have the deadline of the groups.
  const group = Group.create(2, Number(Deno.args[1])), ends: string[] = [];
  const [there, here] = [near(4000, 1), near(4000, 0)],
    run = { bytes: 4000, count: 1, fromStride: 0, toStride: 0 };
  for (let i = 0; i < 3; i++) {
    const move = { from: there, to: here, fromOffset: 0, toOffset: 0, ...run };
    ends.push(await devices[0]!.copy([move]).done.then(() => "well", (e: Error) => e.message));
  }
  group[Symbol.dispose]();
  console.log(JSON.stringify(ends));
}
Deno.exit(0);
