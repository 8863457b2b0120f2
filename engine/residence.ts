/** Moves a replica that is idle between steps to host memory, and back. */
import { parameterBytes } from "../compiler/models/transformer.ts";
import { align } from "../ir/op.ts";
import type { SegmentMove } from "../ffi/device.ts";
import type { Devices } from "./devices.ts";
import { settled } from "./lanes.ts";
import type { Replica } from "./replica.ts";

/**
 * `fetch` copies parameters and optimizer states from host memory to the replica's place in the pool, `offload` copies them
 * back; of a model that nothing changes the host's copy is good already.
 */
export async function move(
  devices: Devices,
  replica: Replica,
  direction: "fetch" | "offload",
): Promise<void> {
  if (direction === "offload" && !replica.changes) return;
  const jobs = replica.holders.map(({ rank, device, shard, segments }) => {
    const host = replica.host[rank]!, params = parameterBytes(shard.parameters);
    const moves: SegmentMove[] = [];
    const add = (segment: typeof segments.params, hostOffset: number, bytes: number) => {
      if (!segment || !bytes) return;
      const run = { bytes, count: 1, fromStride: 0, toStride: 0 };
      moves.push(
        direction === "fetch"
          ? { from: host, to: segment, fromOffset: hostOffset, toOffset: 0, ...run }
          : { from: segment, to: host, fromOffset: 0, toOffset: hostOffset, ...run },
      );
    };
    add(segments.params, 0, params);
    add(segments.moments, align(params), segments.moments?.bytes ?? 0);
    return devices.all[device]!.copy(moves, { label: `the ${direction} of ${replica.name}` });
  });
  await settled(jobs);
}
