/** Programs of small models run with given dims on every device at once, to see what their operations take. */
import { type Device, DeviceSegment, LoadedProgram, type Segments } from "../ffi/device.ts";
import type { Memberships } from "../ffi/device.ts";
import { BYTES, type Maxima, PAGE, SAMPLER, type Segment, SEGMENTS } from "../ir/op.ts";
import type { Program } from "../ir/program.ts";
import { storedAs } from "./half.ts";

/** A program with the dims and the state that it is measured with. */
export interface ProfileCase {
  readonly program: Program;
  readonly live: Maxima;
  /** Tokens that every slot has in its cache. */
  readonly context: number;
}

/** What a case took in the repetition that was disturbed least: other programs make operations slower and never faster. */
export interface Measured extends ProfileCase {
  /** By kind of operation. */
  readonly seconds: Readonly<Record<string, number>>;
  /** From begin to end of the job. */
  readonly total: number;
}

const REPETITIONS = 5;

/** One case on every device at the same time: what they share is part of what is measured. */
export async function measureCase(
  devices: readonly Device[],
  c: ProfileCase,
  memberships: (rank: number) => Memberships = () => ({}),
): Promise<Measured> {
  using program = LoadedProgram.load(c.program), held = new DisposableStack();
  const segments = devices.map((device) => segmentsOf(c, device, held)),
    all: { seconds: Record<string, number>; total: number }[] = [];
  for (let i = -1; i < REPETITIONS; i++) {
    devices.forEach((device, d) => {
      prepare(c, segments[d]!);
      device.profileEvery(1);
      device.profile();
    });
    const spans = await Promise.all(
      devices.map((device, d) =>
        device.submit(program, segments[d]!, c.live, { groups: memberships(d) }).done
      ),
    );
    if (i < 0) continue;
    devices.forEach((device, d) => {
      const { all: _, ...ns } = device.profile(), span = spans[d]!;
      all.push({
        seconds: Object.fromEntries(Object.entries(ns).map(([kind, n]) => [kind, n / 1e9])),
        total: (span.end - span.begin) / 1e3,
      });
    });
  }
  const kinds = new Set(all.flatMap((m) => Object.keys(m.seconds)));
  return {
    ...c,
    seconds: Object.fromEntries([...kinds].map((k) => [k, Math.min(...all.map((m) => m.seconds[k] ?? 0))])),
    total: Math.min(...all.map((m) => m.total)),
  };
}

export const median = (xs: readonly number[]): number => {
  const sorted = xs.toSorted((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
};

function segmentsOf({ program }: ProfileCase, near: Device, held: DisposableStack): Segments {
  return Object.fromEntries(
    SEGMENTS.filter((s) => program.segmentBytes[s] > 0).map((
      s,
    ) => [s, held.use(new DeviceSegment(program.segmentBytes[s], { near }))]),
  ) as Partial<Record<Segment, DeviceSegment>>;
}

/** Inputs with which every operation does its work: ones, sequences of equal length, pages one behind the other. */
function prepare({ program, live, context }: ProfileCase, segments: Segments): void {
  for (const [path, { segment, offset, bytes, dtype }] of Object.entries(program.ports)) {
    if (segment !== "inputs" && segment !== "state") continue;
    const n = bytes / BYTES[dtype], name = path.split("/")[1]!;
    segments[segment]!.write(
      offset,
      dtype === "i32"
        ? integers(name, n, live, context, program)
        : storedAs(new Float32Array(n).fill(1), dtype),
    );
  }
}

function integers(
  name: string,
  n: number,
  live: Maxima,
  context: number,
  { ports }: Program,
): Int32Array<ArrayBuffer> {
  const each = (of: (i: number) => number) => Int32Array.from({ length: n }, (_, i) => of(i));
  const ends = (rows: number) =>
    each((i) => Math.min(rows, Math.round((i + 1) * rows / Math.max(1, live.sequences))));
  const length = Math.max(1, Math.round(live.tokens / Math.max(1, live.sequences)));
  switch (name) {
    case "ends":
      return ends(live.tokens);
    case "actionEnds":
      return ends(live.actions);
    case "groupEnds":
      return each((i) => i + 1);
    case "positions":
      return each((i) => i % length);
    case "rows":
      return each((i) => Math.min(i, Math.max(0, live.tokens - 1)));
    case "lastRows":
      return each((i) => Math.min(live.tokens - 1, (i + 1) * length - 1));
    case "slots":
      return each((i) => i);
    case "tokenSlots":
      return each((i) => Math.floor(i / length));
    case "position":
      return each(() => context);
    case "sampler":
      return each((i) => i % 8 === SAMPLER.limit ? 1 << 20 : 0);
    case "stops":
      return each(() => -1);
    case "pageTable": {
      const slots = ports["state/position"]!.bytes / 4, most = n / slots;
      return each((i) => i % (slots * most));
    }
    default:
      return new Int32Array(n);
  }
}

/** Pages that slots with so much context need, and one more. */
export const pagesFor = (
  slots: number,
  context: number,
): { readonly pages: number; readonly maxPages: number } => {
  const maxPages = Math.floor(context / PAGE) + 2;
  return { pages: slots * maxPages, maxPages };
};
