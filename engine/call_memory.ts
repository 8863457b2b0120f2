/** Device memory of calls: what they keep from one submission to the next, and what they have in turn with others. */
import { arenaOf, type Use } from "../compiler/uses.ts";
import type { Segment } from "../ir/op.ts";
import type { DeviceSegment } from "../ffi/device.ts";
import type { Devices } from "./devices.ts";

/** Memory in turn under a name, where a device has such. */
export type Turn = (device: number, name: string) => DeviceSegment | undefined;

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
    readonly turn: Turn = () => undefined,
  ) {}

  segment(device: number, name: string, bytes: number): DeviceSegment {
    const key = `${device} ${name}`;
    let segment = this.#segments.get(key);
    if (!segment) {
      const planned = this.planned.get(device)?.get(name) ?? 0;
      segment = this.turn(device, name) ?? this.devices.segment(device, Math.max(bytes, planned));
      this.#segments.set(key, segment);
    }
    return segment;
  }

  /** What one program of a call has beside the memory of its model. */
  own(
    device: number,
    call: string,
    { memory, program }: Pick<Use, "memory" | "program">,
  ): Partial<Record<Segment, DeviceSegment>> {
    const { segmentBytes } = program, named = Object.entries(memory) as [Segment, string][];
    if (segmentBytes.arena) named.push(["arena", arenaOf(call)]);
    return Object.fromEntries(
      named.map(([segment, name]) => [segment, this.segment(device, name, segmentBytes[segment])]),
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
