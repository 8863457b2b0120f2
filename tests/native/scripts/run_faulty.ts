/** A program of forty operations, of one kernel each, three times on one device; prints the error of each run, or null. */
import { Device, DeviceSegment, LoadedProgram } from "../../../ffi/device.ts";
import type { Op } from "../../../ir/op.ts";
import { ONE, program, value } from "../harness.ts";

const x = value(0, 64), y = value(1, 64);
const fill: Op = { kind: "fill", ins: [], outs: [x], attrs: [64, 1] },
  gate: Op = { kind: "swiglu", ins: [x, x], outs: [y], attrs: [64] };
const ops = Array.from({ length: 40 }, (_, i) => i % 2 === 0 ? fill : gate);
const loaded = LoadedProgram.load(program(ops, new Map([[x, 0], [y, 256]]), 512));
const device = Device.open({ threads: 1 }), arena = new DeviceSegment(512, { near: device });
const errors: (string | null)[] = [];
for (const run of [1, 2, 3]) {
  const { done } = device.submit(loaded, { arena }, ONE, { label: `job ${run}` });
  errors.push(await done.then(() => null, (error: Error) => error.message));
}
console.log(JSON.stringify(errors));
Deno.exit(0);
