/** The passes from recorded operations to a program. */
import {
  align,
  BYTES,
  type Maxima,
  type Op,
  type Place,
  type Segment,
  SEGMENTS,
  type Value,
} from "../ir/op.ts";
import type { BufferRow, Port, Program } from "../ir/program.ts";
import { planBuffers } from "./buffers.ts";
import type { Builder } from "./builder.ts";
import { encode } from "./encode.ts";
import { flops } from "./flops.ts";
import { fuse } from "./fuse.ts";
import { join } from "./join.ts";
import { joinBiases } from "./join_bias.ts";
import type { Shard } from "./layout.ts";
import { bytesOf, reservedBytes, size } from "./shape.ts";
import { forwardCopies, pinOutputs, removeDead } from "./simplify.ts";
import { checkProgram } from "./specification.ts";

export interface FinishOptions {
  readonly maxima: Maxima;
  /** Bytes of fence around every arena buffer, for tests; see `buffers.ts`. */
  readonly guard?: number | undefined;
  /** Operations that memory is planned without: two programs that differ by them only have one plan of the arena. */
  readonly unplanned?: (op: Op) => boolean;
}

/** The name of a program that a rank runs. */
export const named = (name: string, { stage, stages }: Pick<Shard, "stage" | "stages">): string =>
  stages === 1 ? name : `${name}, stage ${stage + 1} of ${stages}`;

/** Rewrites that change no result: what is planned and encoded. */
export const lowerOps = (b: Builder, ops: readonly Op[]): Op[] =>
  join(removeDead(fuse(joinBiases(removeDead(forwardCopies(pinOutputs(b, ops)))))));

/** Turns recorded operations into a program. */
export function finish(name: string, b: Builder, recorded: readonly Op[], o: FinishOptions): Program {
  const ops = lowerOps(b, recorded), { unplanned } = o;
  const plan = planBuffers(unplanned ? ops.filter((op) => !unplanned(op)) : ops, o.maxima, o.guard);
  const placeOf = (v: Value): Place | undefined => v.place ?? plan.places.get(v);
  const segmentBytes = Object.fromEntries(
    SEGMENTS.map((s) => [s, s === "arena" ? plan.arenaBytes : b.segmentBytes(s)]),
  ) as Record<Segment, number>;
  checkProgram(name, ops, placeOf, segmentBytes, o.maxima);

  const ports: Record<string, Port> = {};
  const table: BufferRow[] = plan.buffers.map(({ name, bytes, offset }) => ({
    segment: "arena",
    name,
    offset,
    bytes,
  }));
  for (const [port, v] of b.placed) {
    const { segment, offset } = v.place!;
    ports[port] = { segment, offset, shape: v.shape, dtype: v.dtype, bytes: bytesOf(v, o.maxima) };
    table.push({ segment, name: v.name, offset, bytes: reservedBytes(v, o.maxima) });
  }
  let bytes: Program["bytes"] | undefined;
  return {
    name,
    // Made when it is asked for: the planner never does.
    get bytes() {
      return bytes ??= encode(ops, (v) => placeOf(v)!, segmentBytes, o.maxima);
    },
    get widenedBytes() {
      return widenedBytes(ops, (v) => placeOf(v)!, o.maxima);
    },
    maxima: o.maxima,
    segmentBytes,
    ports,
    table,
    liveBytes: plan.liveBytes,
    operations: ops.length,
    // Made when it is asked for: a run never does.
    get work() {
      return ops.map(({ kind, attrs, ins, outs }) => {
        const all = [...ins, ...outs];
        return {
          kind,
          attrs,
          elements: all.map((v) => size(v.shape)),
          widths: all.map((v) => BYTES[v.dtype]),
        };
      });
    },
    flops: (live) => ops.reduce((n, op) => n + flops(op, live), 0),
  };
}

/** The most that one operation's bf16 operands take in f32; what it reads and writes at one place is one. */
function widenedBytes(ops: readonly Op[], placeOf: (v: Value) => Place, maxima: Maxima): number {
  let most = 0;
  for (const { ins, outs } of ops) {
    const places = new Map<string, number>();
    for (const v of [...ins, ...outs]) {
      if (v.dtype !== "bf16") continue;
      const { segment, offset } = placeOf(v), key = `${segment} ${offset}`;
      places.set(key, Math.max(places.get(key) ?? 0, align(BYTES.f32 / BYTES.bf16 * bytesOf(v, maxima))));
    }
    most = Math.max(most, [...places.values()].reduce((n, bytes) => n + bytes, 0));
  }
  return most;
}
