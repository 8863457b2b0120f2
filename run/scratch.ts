/** What a device needs beside what programs name. */
import type { Program } from "../ir/program.ts";
import { usesOf } from "../compiler/uses.ts";
import { describe, type Device } from "../ffi/device.ts";
import type { PreparedGraph } from "./prepare.ts";

/** Kernel scratch, and on the CPU the bf16 operands of an operation in f32: a device keeps room for the largest. */
export function scratchOf(device: Device, graphs: readonly PreparedGraph[]): number {
  if (describe().backend !== "cpu") return device.scratchBytes;
  const programs = graphs.flatMap(({ graph, programs, plan }) =>
    graph.calls.flatMap((c) =>
      usesOf(c, programs, plan.assignments[c.id]?.strategy).map((use) => use.program)
    )
  );
  return device.scratchBytes + widest(programs);
}

/** The most that an operation of these programs has widened. */
export const widest = (programs: readonly Program[]): number =>
  Math.max(0, ...programs.map((p) => p.widenedBytes ?? 0));
