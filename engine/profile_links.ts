/** Measures how the devices of this machine are joined: collectives of their groups, copies from one to another, the host. */
import { Builder } from "../compiler/builder.ts";
import { finish } from "../compiler/finish.ts";
import { NO_ROWS, reservedBytes } from "../compiler/shape.ts";
import { LoadedProgram } from "../ffi/device.ts";
import type { Program } from "../ir/program.ts";
import type { Devices } from "./devices.ts";
import { measureCase, median } from "./profile_runs.ts";

/** α and β of a collective among so many devices. */
export interface MeasuredRate {
  readonly kind: "allReduce" | "allGatherRows" | "reduceScatterRows";
  readonly ranks: number;
  readonly microseconds: number;
  readonly GBps: number;
}

export interface DeviceLinks {
  readonly collectives: readonly MeasuredRate[];
  /** A copy from one device to another. */
  readonly microseconds: number;
  readonly GBps: number;
  /** From submitting a program to knowing that it has ended. */
  readonly roundMicroseconds: number;
}

const WIDTH = 64, SMALL = 64, LARGE = 32768, TIMES = 4, REPETITIONS = 7;
const KINDS = ["allReduce", "allGatherRows", "reduceScatterRows"] as const;

/**
 * @param devices at least two for links between them
 * @param capacity of them that can be busy at once: what more of them take is counted as if they had not to wait
 */
export async function measureLinks(devices: Devices, capacity = Infinity): Promise<DeviceLinks> {
  const collectives: MeasuredRate[] = [], count = devices.all.length;
  for (let ranks = 2; ranks <= count; ranks *= 2) {
    for (const kind of KINDS) {
      collectives.push(await rateOf(devices, kind, ranks, Math.max(1, ranks / capacity)));
    }
  }
  const [small, large] = count > 1
    ? [await copySeconds(devices, 4 * WIDTH * SMALL), await copySeconds(devices, 4 * WIDTH * LARGE)]
    : [0, 0];
  const bytes = 4 * WIDTH * (LARGE - SMALL), beta = Math.max(1e-12, (large - small) / bytes);
  return {
    collectives,
    microseconds: count > 1 ? Math.max(0, 1e6 * (small - beta * 4 * WIDTH * SMALL)) : 0,
    GBps: count > 1 ? 1 / beta / 1e9 : 1000,
    roundMicroseconds: 1e6 * await roundSeconds(devices),
  };
}

/** `TIMES` collectives of `rows` rows. */
function programOf(kind: typeof KINDS[number], rows: number, ranks: number): Program {
  const b = new Builder((v) => reservedBytes(v, NO_ROWS)), own = rows / ranks;
  for (let i = 0; i < TIMES; i++) {
    const x = b.declare("outputs", `x${i}`, [kind === "allGatherRows" ? own : rows, WIDTH]);
    if (kind === "allReduce") b.allReduce(x, "dp");
    else {b.output(
        `y${i}`,
        kind === "allGatherRows" ? b.allGatherRows(x, rows, "dp") : b.reduceScatterRows(x, own, "dp"),
      );}
  }
  return finish(kind, b, b.ops, { maxima: NO_ROWS });
}

async function rateOf(
  devices: Devices,
  kind: typeof KINDS[number],
  ranks: number,
  slower: number,
): Promise<MeasuredRate> {
  const placed = {
    devices: Array.from({ length: ranks }, (_, i) => i),
    strategy: { dp: ranks, tp: 1, pp: 1 },
    kvReplicas: 1,
  };
  const seconds = async (rows: number) => {
    const c = { program: programOf(kind, rows, ranks), live: NO_ROWS, context: 0 };
    const { total } = await measureCase(
      devices.all.slice(0, ranks),
      c,
      (rank) => devices.memberships(placed, rank),
    );
    return total / TIMES / slower;
  };
  const [small, large] = [await seconds(SMALL), await seconds(LARGE)], bytes = 4 * WIDTH;
  const share = (kind === "allReduce" ? 2 : 1) * (ranks - 1) / ranks;
  const beta = Math.max(1e-12, (large - small) / (share * bytes * (LARGE - SMALL)));
  return {
    kind,
    ranks,
    microseconds: 1e6 * Math.max(0, small - beta * share * bytes * SMALL),
    GBps: 1 / beta / 1e9,
  };
}

async function copySeconds(devices: Devices, bytes: number): Promise<number> {
  using from = devices.segment(0, bytes), to = devices.segment(1, bytes);
  const move = { from, to, fromOffset: 0, toOffset: 0, bytes, count: 1, fromStride: bytes, toStride: bytes },
    all: number[] = [];
  for (let i = -1; i < REPETITIONS; i++) {
    const { begin, end } = await devices.all[1]!.copy([move]).done;
    if (i >= 0) all.push((end - begin) / 1e3);
  }
  return median(all);
}

/** A program that does next to nothing, seen from the host. */
async function roundSeconds(devices: Devices): Promise<number> {
  const b = new Builder((v) => reservedBytes(v, NO_ROWS)), all: number[] = [];
  b.output("y", b.fill(1));
  const program = finish("nothing", b, b.ops, { maxima: NO_ROWS });
  using loaded = LoadedProgram.load(program), outputs = devices.segment(0, program.segmentBytes.outputs);
  for (let i = 0; i < 10 * REPETITIONS; i++) {
    const start = performance.now();
    await devices.all[0]!.submit(loaded, { outputs }, NO_ROWS).done;
    all.push((performance.now() - start) / 1e3);
  }
  return median(all);
}
