/**
 * A sum over two ranks whose kernel never ends (FAKE_NCCL=stall=2), and behind it copies on the same device: one between other
 * memory, one to the memory of the sum. Prints in which order they ended.
 */
import { Device, DeviceSegment, Group, LoadedProgram } from "../../../ffi/device.ts";
import { AXES, type Op } from "../../../ir/op.ts";
import { ONE, onEveryAxis, program, value } from "../harness.ts";

const x = value(0, 1000);
const sum: Op = { kind: "allReduce", ins: [x], outs: [x], attrs: [1000, AXES.indexOf("dp")] };
const loaded = LoadedProgram.load(program([sum], new Map([[x, 0]]), 4000));
const devices = [0, 0].map((gpu) => Device.open({ threads: 1, gpu }));
const memory = devices.map((near) => new DeviceSegment(4000, { near }));
const other = new DeviceSegment(8000, { near: devices[0]! }),
  group = Group.create(2, 1),
  ended: string[] = [];
const run = { bytes: 4000, count: 1, fromStride: 0, toStride: 0 };
const sums = devices.map((device, rank) =>
  device.submit(loaded, { arena: memory[rank]! }, ONE, { groups: onEveryAxis(group, rank) })
);
const apart = devices[0]!.copy([{ from: other, to: other, fromOffset: 0, toOffset: 4000, ...run }]);
const same = devices[0]!.copy([{ from: other, to: memory[0]!, fromOffset: 0, toOffset: 0, ...run }]);
const watch = (name: string, done: Promise<unknown>) =>
  done.then(() => ended.push(`${name} well`), () => ended.push(`${name} badly`));
await Promise.all([watch("sum", sums[0]!.done), watch("apart", apart.done), watch("same", same.done)]);
await Promise.allSettled([sums[1]!.done]);
console.log(ended.join(", "));
Deno.exit(0);
