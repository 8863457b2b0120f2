/** The profile of this machine's devices: virtual ones, or GPUs. */
import { storedIn } from "../compiler/models/storage.ts";
import { Devices } from "../engine/devices.ts";
import { measureDevices } from "../engine/profile.ts";
import { measureLinks } from "../engine/profile_links.ts";
import { openGpus, usableBytes } from "../ffi/gpus.ts";
import { BYTES } from "../ir/op.ts";
import { type Devices as Given, printGpus } from "../ir/notation.ts";
import { parseProfile, type Profile } from "../planner/profile.ts";
import { memory } from "./available.ts";
import { usualPrecision } from "./machine.ts";
import { deviceBytes } from "./pools.ts";
import { capacityOf } from "./profiles.ts";

/** Host work of a micro-batch, as round trips of an empty program: it writes what programs read, and reads what they leave. */
const ROUNDS = 10;

/**
 * Measures devices, all at once.
 *
 * @param threads of the CPU, of each device
 * @param onProgress gets the share that is done
 */
export async function profileMachine(
  { nodes, perNode, gpus }: Given,
  threads: number,
  onProgress?: (share: number) => void,
): Promise<Profile> {
  const count = nodes * perNode, host = memory().availableBytes;
  const memoryBytes = gpus
    ? deviceBytes({
      devices: { nodes, perNode, gpus },
      memoryBytes: host,
      gpuBytes: new Map(openGpus(gpus).map((found, gpu) => [gpu, usableBytes(found)])),
    })
    : host / count;
  using devices = Devices.open({ count, threads, ...gpus && { gpus } });
  // More virtual devices than there are processors for would measure their waiting for one another, which the planner adds itself.
  const capacity = gpus ? undefined : capacityOf(threads), most = Math.max(1, Math.floor(capacity ?? count));
  // Tables are of the numbers that runs on such devices have when nobody says otherwise.
  const storage = storedIn(usualPrecision({ ...gpus && { gpus } }), "fp32", gpus ? "rows" : "panels");
  const measured = await measureDevices(Devices.of(...devices.all.slice(0, most)), onProgress, storage),
    links = await measureLinks(devices, capacity);
  const { isa } = devices.all[0]!.description, short = (x: number) => Number(x.toPrecision(4));
  const name = gpus
    ? printGpus(gpus)
    : `${count} CPU ${count === 1 ? "device" : "devices"} with ${threads} ${
      threads === 1 ? "thread" : "threads"
    }`;
  return parseProfile({
    version: 1,
    name: `${name}, ${isa}`,
    source: "baton profile",
    ...capacity !== undefined && { capacity },
    elementBytes: BYTES[storage.weights],
    memoryBytes: Math.floor(memoryBytes),
    memoryGBps: short(measured.memoryGBps),
    hostGBps: short(measured.memoryGBps / 2),
    launchMicroseconds: short(measured.launchMicroseconds),
    submitMicroseconds: short(measured.submitMicroseconds),
    roundMicroseconds: short(ROUNDS * links.roundMicroseconds),
    tables: measured.tables,
    collectives: links.collectives.map((r) => ({
      ...r,
      microseconds: short(r.microseconds),
      GBps: short(r.GBps),
    })),
    links: [{ devices: 1024, microseconds: short(links.microseconds), GBps: short(links.GBps) }],
  }, "the measured profile");
}
