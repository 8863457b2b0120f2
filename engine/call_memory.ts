/** Device memory that calls keep from one submission to the next: caches, inputs, outputs. */
import type { Use } from "../compiler/uses.ts";
import type { Segment } from "../ir/op.ts";
import type { DeviceSegment } from "../ffi/device.ts";
import type { Devices } from "./devices.ts";

/**
 * Segments by device and name. A run's step and its evaluation never run at the same time, and nothing in these segments
 * outlives a step: a call that both have, under one id, has one memory.
 */
export class CallMemory {
  readonly #segments = new Map<string, DeviceSegment>();

  /** @param planned bytes by device and name (`planner/memory.ts`); what is not named gets what its first user needs */
  constructor(
    readonly devices: Pick<Devices, "segment">,
    readonly planned: ReadonlyMap<number, ReadonlyMap<string, number>> = new Map(),
  ) {}

  segment(device: number, name: string, bytes: number): DeviceSegment {
    const key = `${device} ${name}`;
    let segment = this.#segments.get(key);
    if (!segment) {
      const planned = this.planned.get(device)?.get(name) ?? 0;
      this.#segments.set(key, segment = this.devices.segment(device, Math.max(bytes, planned)));
    }
    return segment;
  }

  /** What one program of a call has beside the memory of its device and its model. */
  own(
    device: number,
    { memory, program }: Pick<Use, "memory" | "program">,
  ): Partial<Record<Segment, DeviceSegment>> {
    return Object.fromEntries(
      (Object.entries(memory) as [Segment, string][]).map((
        [segment, name],
      ) => [segment, this.segment(device, name, program.segmentBytes[segment])]),
    );
  }

  /** Every segment, with the device that it is on. */
  *[Symbol.iterator](): Iterator<readonly [device: number, name: string, segment: DeviceSegment]> {
    for (const [key, segment] of this.#segments) {
      const space = key.indexOf(" ");
      yield [Number(key.slice(0, space)), key.slice(space + 1), segment];
    }
  }

  dispose(): void {
    for (const segment of this.#segments.values()) segment.dispose();
    this.#segments.clear();
  }
}
