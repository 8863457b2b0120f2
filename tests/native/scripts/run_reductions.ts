/** `run_reductions.ts RANKS DEADLINE REPETITIONS`: sums over ranks on one GPU, in jobs of one sum; prints how every job ended. */
import { Device, DeviceSegment, Group, LoadedProgram } from "../../../ffi/device.ts";
import type { Op } from "../../../ir/op.ts";
import { AXES } from "../../../ir/op.ts";
import { ONE, onEveryAxis, program, value } from "../harness.ts";

const [ranks, deadline, repetitions] = Deno.args.map(Number) as [number, number, number];
const x = value(0, 1000),
  sum: Op = { kind: "allReduce", ins: [x], outs: [x], attrs: [1000, AXES.indexOf("dp")] };
const loaded = LoadedProgram.load(program([sum], new Map([[x, 0]]), 4000));
const devices = Array.from({ length: ranks }, () => Device.open({ threads: 1, gpu: 0 }));
const memory = devices.map((near) => new DeviceSegment(4000, { near }));
const group = Group.create(ranks, deadline), ends: (string | number)[][] = [];
for (let i = 0; i < repetitions; i++) {
  memory.forEach((m, rank) => m.write(0, new Float32Array(1000).fill(rank + 1)));
  const jobs = devices.map((device, rank) =>
    device.submit(loaded, { arena: memory[rank]! }, ONE, { groups: onEveryAxis(group, rank), label: "sums" })
  );
  const settled = await Promise.allSettled(jobs.map((job) => job.done));
  ends.push(
    settled.map((end, rank) =>
      end.status === "fulfilled"
        ? memory[rank]!.read(0, new Float32Array(1000))[999]!
        : (end.reason as Error).message
    ),
  );
}
console.log(JSON.stringify(ends));
Deno.exit(0);
