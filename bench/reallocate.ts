/**
 * Parameter reallocation between layouts of one model on virtual devices, beside a plain copy of as many bytes, as JSON lines:
 *
 *     deno run -A bench/reallocate.ts [--size M] [--repetitions 7]
 *
 * `share` is the bandwidth of the reallocation over that of the copy; bytes that stay on their device count in both.
 */
import { parseArgs } from "node:util";
import { shardsOf } from "../compiler/layout.ts";
import { devicesOf } from "../ir/mesh.ts";
import { meshOf, parseRange, parseStrategy } from "../ir/notation.ts";
import type { ReplicaSpec } from "../ir/plan.ts";
import { Devices } from "../engine/devices.ts";
import { Reallocator } from "../engine/reallocation.ts";
import { Replica } from "../engine/replica.ts";
import { DeviceSegment } from "../ffi/device.ts";
import { benchConfig, type Size } from "./cases.ts";
import { median } from "./measure.ts";

/** From and to: devices and strategy. */
const PAIRS = [
  ["0 dp1", "1 dp1"],
  ["0-1 tp2", "2-3 pp2"],
  ["0-1 dp2", "0-1 tp2"],
  ["0-1 pp2", "0-3 tp2dp2"],
  ["0-3 tp4", "0-3 dp2pp2"],
  ["0-3 dp2pp2", "0-7 dp4pp2"],
  ["0-3 dp2tp2", "0-3 dp2tp2"],
] as const;

const { values: flags } = parseArgs({
  options: { size: { type: "string", default: "M" }, repetitions: { type: "string", default: "7" } },
});
const config = benchConfig(flags.size as Size), repetitions = Number(flags.repetitions);
const cluster = { nodes: 1, devicesPerNode: 8 };
using devices = Devices.open({ count: 8, threads: 1 });

for (const [from, to] of PAIRS) console.log(JSON.stringify(await measured(from, to)));

function replica(name: string, text: string): Replica {
  const [range, strategy] = text.split(" ").map((part, i) => i ? parseStrategy(part) : parseRange(part));
  if (
    typeof range !== "object" || !("from" in range) || typeof strategy !== "object" || !("dp" in strategy)
  ) {
    throw new RangeError(`Cannot measure a reallocation: "${text}" is no layout`);
  }
  const mesh = meshOf(range, cluster), home = name === "from";
  const spec: ReplicaSpec = { model: "m", mesh, strategy, zero: 0, home, residence: "device", lag: 0 };
  const none = new DeviceSegment(64);
  return new Replica(name, spec, devicesOf(mesh, cluster), shardsOf(config, "lm", strategy), false, false, {
    own: (device, bytes) => devices.segment(device, bytes),
    constants: () => none,
    pooled: () => none,
  });
}

async function measured(from: string, to: string): Promise<object> {
  using held = new DisposableStack();
  const [source, target] = [replica("from", from), replica("to", to)];
  for (const r of [source, target]) held.adopt(r, (r) => r.dispose());
  const reallocator = new Reallocator(devices, source, target, cluster), { plan } = reallocator;
  // Every byte that is copied, received or laid out anew; where the layout is the same the two replicas would share memory.
  const bytes = plan.bytes + plan.localBytes, seconds: number[] = [], plain: number[] = [];
  const [a, b] = [1, 2].map(() => held.use(new DeviceSegment(Math.max(64, bytes)))) as [
    DeviceSegment,
    DeviceSegment,
  ];
  for (let i = 0; i <= repetitions; i++) {
    const run = bytes ? (await reallocator.run(1, () => {})).seconds : 0,
      copied = bytes ? await copy(a, b, bytes) : 0;
    if (i > 0) seconds.push(run), plain.push(copied);
  }
  const mine = median(seconds), theirs = median(plain);
  return {
    name: "reallocate",
    size: flags.size,
    from,
    to,
    bytes: plan.bytes,
    minimum: plan.minimum,
    local_bytes: plan.localBytes,
    moves: plan.moves.length,
    median_s: mine,
    GBps: bytes ? bytes / mine / 1e9 : 0,
    copy_GBps: bytes ? bytes / theirs / 1e9 : 0,
    share: bytes ? theirs / mine : 1,
  };
}

/** Seconds of copying `bytes` with as many devices as a reallocation may use: two cores are busy with two. */
async function copy(from: DeviceSegment, to: DeviceSegment, bytes: number): Promise<number> {
  const half = Math.floor(bytes / 128) * 64, parts = [[0, half], [half, bytes - half]] as const;
  const start = performance.now();
  const jobs = parts.map(([offset, n], i) =>
    devices.all[i]!.copy([{
      from,
      to,
      fromOffset: offset,
      toOffset: offset,
      bytes: n,
      count: 1,
      fromStride: n,
      toStride: n,
    }])
  );
  await Promise.all(jobs.map((job) => job.done));
  return (performance.now() - start) / 1000;
}
