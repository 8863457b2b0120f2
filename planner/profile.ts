/** What a kind of device can do: measured seconds of operations by size, links, memory. Plain JSON, `baton profile` makes one. */
import type { OpKind } from "../ir/op.ts";
import type { Cluster } from "../ir/plan.ts";
import {
  array,
  boolean,
  count,
  leaf,
  literal,
  number,
  object,
  record,
  type Shape,
  string,
} from "../ir/shape_of.ts";
import { type Table, tableProblems } from "../ir/table.ts";

/** Time of a collective among some devices of one node: microseconds, then its bytes at GBps (Thakur et al. 2005: α–β). */
export interface CollectiveRate {
  readonly kind: "allReduce" | "allGatherRows" | "reduceScatterRows";
  readonly ranks: number;
  readonly microseconds: number;
  /** 10⁹ bytes a second that every rank sends while a ring is busy ("bus bandwidth" of nccl-tests). */
  readonly GBps: number;
}

export interface Profile {
  readonly version: 1;
  readonly name: string;
  /** Where the figures come from. */
  readonly source: string;
  /**
   * Devices that can be busy at once without making one another slower, of all that there are: virtual devices share the
   * processors of their machine and the thread that feeds them. Absent where each has processors of its own.
   */
  readonly capacity?: number;
  /** Whether devices compute and communicate at the same time: sums of gradients then hide behind the last backward pass. */
  readonly overlaps?: boolean;
  /** Bytes of the numbers that its tables were measured with: 2 for bf16, 4 for fp32. A plan is for that precision unless another is asked for. */
  readonly elementBytes: number;
  /** Bytes that programs may use on a device. */
  readonly memoryBytes: number;
  /** Of what only reads and writes memory, 10⁹ bytes a second. */
  readonly memoryGBps: number;
  /** Between a device and its host. */
  readonly hostGBps: number;
  /** Every operation takes at least so long. */
  readonly launchMicroseconds: number;
  /** Of a program beside its operations. */
  readonly submitMicroseconds: number;
  /** What the host does for a micro-batch and for a decode step: it writes what programs read, and looks at what they leave. */
  readonly roundMicroseconds: number;
  /**
   * `matmul`: m, n, k of y[m,n] = x[m,k]·wᵀ; `matmulDx` and `matmulDw` where they differ, by the same m, n, k of the product
   * that they are. `attention` and `attentionGrad`: tokens of a sequence, sequences × heads, at 128 columns a head.
   * `pagedAttention`: sequences × key and value heads, tokens of context, at 128 columns. Of any other kind: elements touched.
   */
  readonly tables: Readonly<Partial<Record<OpKind, Table>>> & { readonly matmul: Table };
  readonly collectives: readonly CollectiveRate[];
  /** Groups of so many neighbouring devices are joined by a link of this latency and rate a device, smallest groups first. */
  readonly links: Cluster["links"];
}

const table: Shape = (value, path, found) => {
  const before = found.length;
  object({ axes: array(array(number)), seconds: array(number) })(value, path, found);
  if (found.length === before) found.push(...tableProblems(value as Table).map((p) => `${path} ${p}`));
};
const positive = leaf("a number above 0", (v) => typeof v === "number" && v > 0 && Number.isFinite(v));
const duration = leaf("0 or more", (v) => typeof v === "number" && v >= 0 && Number.isFinite(v));

/** What links of a cluster look like. */
export const linksShape: Shape = array(object({ devices: count, microseconds: duration, GBps: positive }));

const profileShape = object({
  version: literal(1),
  name: string,
  source: string,
  elementBytes: positive,
  memoryBytes: positive,
  memoryGBps: positive,
  hostGBps: positive,
  launchMicroseconds: duration,
  submitMicroseconds: duration,
  roundMicroseconds: duration,
  tables: record(table),
  collectives: array(object({
    kind: literal("allReduce", "allGatherRows", "reduceScatterRows"),
    ranks: count,
    microseconds: duration,
    GBps: positive,
  })),
  links: linksShape,
}, { capacity: positive, overlaps: boolean });

/** @throws TypeError naming everything in which the value is no profile */
export function parseProfile(value: unknown, file: string): Profile {
  const found: string[] = [];
  profileShape(value, "profile", found);
  if (!found.length && !("matmul" in (value as Profile).tables)) {
    found.push("profile.tables.matmul is missing");
  }
  if (found.length) {
    throw new TypeError(`Cannot use ${file}: ${found.join("; ")}, make it again with baton profile`);
  }
  return value as Profile;
}

/** A GPU's data sheet. */
export interface DataSheet {
  readonly name: string;
  /** 10¹² floating point operations a second of its matrix units. */
  readonly teraflops: number;
  readonly memoryGBps: number;
  readonly memoryBytes: number;
  readonly hostGBps: number;
  readonly elementBytes: number;
  readonly links: Cluster["links"];
}

/** Shares of a data sheet's figures that good kernels reach (Williams et al. 2009: the roofline is an upper limit). */
const REACHED = { flops: 0.7, memory: 0.8, link: 0.8 } as const;

/**
 * A profile from a data sheet alone: every operation takes what the slower of arithmetic and memory takes. A fallback; tables
 * that were measured are better.
 */
export function roofline(sheet: DataSheet): Profile {
  const launch = 5e-6, flops = sheet.teraflops * 1e12 * REACHED.flops;
  const bandwidth = sheet.memoryGBps * 1e9 * REACHED.memory, { elementBytes: e } = sheet;
  const grid = (axes: readonly (readonly number[])[], seconds: (at: readonly number[]) => number): Table => {
    const points = axes.reduce<number[][]>((all, axis) => all.flatMap((p) => axis.map((x) => [...p, x])), [
      [],
    ]);
    return { axes, seconds: points.map((p) => Math.max(launch, seconds(p))) };
  };
  const powers = (from: number, to: number) =>
    Array.from({ length: to - from + 1 }, (_, i) => 2 ** (from + i));
  return {
    version: 1,
    name: sheet.name,
    source: "data sheet",
    elementBytes: e,
    memoryBytes: sheet.memoryBytes,
    memoryGBps: sheet.memoryGBps * REACHED.memory,
    hostGBps: sheet.hostGBps * REACHED.memory,
    launchMicroseconds: launch * 1e6,
    submitMicroseconds: 20,
    roundMicroseconds: 50,
    tables: {
      matmul: grid(
        [powers(0, 15), powers(4, 17), powers(4, 17)],
        ([m, n, k]) => Math.max(2 * m! * n! * k! / flops, e * (m! * k! + n! * k! + m! * n!) / bandwidth),
      ),
      // Two products over half of the square.
      attention: grid([powers(0, 17), powers(0, 14)], ([t, h]) => 2 * t! * t! * h! * 128 / (flops / 2)),
      pagedAttention: grid([powers(0, 16), powers(0, 17)], ([h, t]) => 2 * e * h! * t! * 128 / bandwidth),
    },
    collectives: [],
    links: sheet.links.map((l) => ({ ...l, GBps: l.GBps * REACHED.link })),
  };
}
