/** Device memory that calls keep from one submission to the next: caches, inputs, outputs. */
import type { Segment } from "../ir/op.ts";
import type { Program } from "../ir/program.ts";
import { DeviceSegment } from "../ffi/device.ts";

/** Segments that belong to one program of a call; the others are the device's, the model's or the whole call's. */
const OWN = ["inputs", "outputs", "saved"] satisfies Segment[];

/**
 * Segments by name. A run's step and its evaluation never run at the same time, and nothing in these segments outlives a step:
 * a call that both have, under one id, has one memory.
 */
export class CallMemory {
  readonly #segments = new Map<string, DeviceSegment>();

  /** @param planned bytes by name (`callBytes` in planner/memory.ts); what is not named gets what its first user needs */
  constructor(readonly planned: Readonly<Record<string, number>> = {}) {}

  segment(name: string, bytes: number): DeviceSegment {
    let segment = this.#segments.get(name);
    if (!segment) {
      this.#segments.set(name, segment = new DeviceSegment(Math.max(bytes, this.planned[name] ?? 0)));
    }
    return segment;
  }

  /** What one program of a call needs beside shared segments. */
  own(name: string, program: Program): Partial<Record<Segment, DeviceSegment>> {
    return Object.fromEntries(
      OWN.filter((s) => program.segmentBytes[s] > 0)
        .map((s) => [s, this.segment(`${name} ${s}`, program.segmentBytes[s])]),
    );
  }

  dispose(): void {
    for (const segment of this.#segments.values()) segment.dispose();
    this.#segments.clear();
  }
}
