/** Moves a replica that is idle between steps to host memory, and back. */
import { parameterBytes } from "../compiler/models/transformer.ts";
import { align } from "../ir/op.ts";
import type { SegmentMove } from "../ffi/device.ts";
import type { Devices } from "./devices.ts";
import { settled } from "./lanes.ts";
import type { Replica } from "./replica.ts";

/**
 * `fetch` copies parameters or optimizer states from host memory to the replica's place in the pool, `offload` copies them
 * back; of a model that nothing changes the host's copy is good already.
 */
export async function move(
  devices: Devices,
  replica: Replica,
  direction: "fetch" | "offload",
  part: "params" | "moments",
): Promise<void> {
  if (direction === "offload" && !replica.changes) return;
  const jobs = replica.holders.flatMap(({ rank, device, shard, segments }) => {
    const host = replica.host[rank]!, params = parameterBytes(shard.parameters), segment = segments[part];
    const [offset, bytes] = part === "params" ? [0, params] : [align(params), segment?.bytes ?? 0];
    if (!segment || !bytes) return [];
    const run = { bytes, count: 1, fromStride: 0, toStride: 0 };
    const move: SegmentMove = direction === "fetch"
      ? { from: host, to: segment, fromOffset: offset, toOffset: 0, ...run }
      : { from: segment, to: host, fromOffset: 0, toOffset: offset, ...run };
    return [devices.all[device]!.copy([move], { label: `the ${direction} of ${replica.name}` })];
  });
  await settled(jobs);
}
