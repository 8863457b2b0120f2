/** Runs a small program `COUNT` times and prints in which executions operations were timed: `run_profiled.ts EVERY|null COUNT`. */
import { Device, DeviceSegment, LoadedProgram } from "../../../ffi/device.ts";
import type { Op } from "../../../ir/op.ts";
import { ONE, program, value } from "../harness.ts";

const [every, count] = Deno.args.map((arg) => JSON.parse(arg) as number | null);
const device = Device.open({ threads: 1, gpu: 0 }), n = 64, x = value(0, n), y = value(1, n);
const swiglu: Op = { kind: "swiglu", ins: [x, x], outs: [y], attrs: [n] };
const loaded = LoadedProgram.load(program(Array(8).fill(swiglu), new Map([[x, 0], [y, 4 * n]]), 8 * n));
const arena = new DeviceSegment(8 * n, { near: device });
arena.write(0, Float32Array.from({ length: n }, (_, i) => i / n));
if (every !== null) device.profileEvery(every!);

const timed: number[] = [], kinds = new Set<string>();
let first = "", wrong = 0;
for (let i = 1; i <= count!; i++) {
  arena.fill(4 * n, 4 * n, 0xff);
  await device.submit(loaded, { arena }, ONE).done;
  const spent = device.profile(), result = arena.read(4 * n, new Float32Array(n)).join();
  if (spent["all"]! > 0) {
    timed.push(i);
    for (const kind of Object.keys(spent)) kinds.add(kind);
  }
  first ||= result;
  if (result !== first) wrong++;
}
console.log(JSON.stringify({ timed, kinds: [...kinds], wrong }));
Deno.exit(0);
