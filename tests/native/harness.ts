/** Runs one operation of the native library on given numbers. Operands lie between guards that must stay as they were. */
import assert from "node:assert/strict";
import { encode } from "../../compiler/encode.ts";
import {
  describe,
  Device,
  DeviceSegment,
  Group,
  LoadedProgram,
  type Memberships,
  selectInstructions,
} from "../../ffi/device.ts";
import { widened } from "../../engine/half.ts";
import {
  align,
  type Attr,
  AXES,
  BYTES,
  type DType,
  type Maxima,
  type Op,
  type OpKind,
  SEGMENTS,
  type Value,
} from "../../ir/op.ts";
import { STATUS } from "../../ffi/symbols.ts";
import type { Program } from "../../ir/program.ts";
import { layoutAt } from "./operand_table.ts";

/** Numbers, integers, or the bits of bf16 numbers. */
export type Data = Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>;
/** A new output of so many elements, one that starts with this content, or the input that the operation updates in place. */
export type Out = number | Data | { readonly inPlace: number };

export const ONE: Maxima = { one: 1, tokens: 0, actions: 0, sequences: 0, groups: 0, pairs: 0, shard: 0 };

const devices = new Map<string, Device>();
/** Devices are shared: opening one starts threads. */
export function device(threads = 2, rank = 0): Device {
  let found = devices.get(`${threads} ${rank}`);
  if (!found) devices.set(`${threads} ${rank}`, found = Device.open({ threads }));
  return found;
}

/** A rank's membership in one group on every axis. */
export const onEveryAxis = (group: Group, rank: number): Memberships =>
  Object.fromEntries(AXES.map((axis) => [axis, { group, rank }]));

/** Runs a test on every instruction set that this machine has, with one thread a device and with two; GPUs have one set. */
export async function everywhere(test: (threads: number) => Promise<void>): Promise<void> {
  if (describe().backend === "cuda") return await test(1);
  try {
    for (const isa of ["generic", "avx2", "avx512"] as const) {
      if (!selectInstructions(isa)) continue;
      for (const threads of isa === "generic" ? [1] : [1, 2]) await test(threads);
    }
  } finally {
    selectInstructions("best");
  }
}

const GUARD = 256, PATTERN = 0xa5;

/** A program with everything in the arena. */
export function program(
  ops: readonly Op[],
  places: ReadonlyMap<Value, number>,
  bytes: number,
  maxima = ONE,
): Program {
  const segmentBytes = Object.fromEntries(
    SEGMENTS.map((s) => [s, s === "arena" ? bytes : 0]),
  ) as Program["segmentBytes"];
  const place = (v: Value) => ({ segment: "arena", offset: places.get(v)! }) as const;
  return {
    name: ops.map((op) => op.kind).join("+"),
    bytes: encode(ops, place, segmentBytes, maxima),
    maxima,
    segmentBytes,
    ports: {},
    table: [],
    liveBytes: bytes,
    operations: ops.length,
    work: [],
    flops: () => 0,
  };
}

export const value = (id: number, elements: number, dtype: DType = "f32"): Value => ({
  id,
  name: `v${id}`,
  shape: [elements],
  dtype,
});
const dtypeOf = (data: Data): DType => data instanceof Uint16Array ? "bf16" : "f32";
const bytesOf = (v: Value): number => (v.shape[0] as number) * BYTES[v.dtype];

export interface Prepared {
  readonly program: Program;
  readonly arena: DeviceSegment;
  /** Where each input lies. */
  readonly at: readonly number[];
  readonly reads: readonly { readonly offset: number; readonly elements: number; readonly dtype: DType }[];
  readonly check: () => void;
}

/**
 * Lays the operands out and writes the inputs. Weights of products lie in panels where `attrs` ends before it says how.
 * @param updates What to read afterwards; differs from `outs` for operations that list what they update as inputs.
 */
export function prepare(
  kind: OpKind,
  ins: readonly Data[],
  outs: readonly Out[],
  attrs: readonly Attr[],
  updates: readonly Out[] = outs,
): Prepared {
  let at = GUARD;
  const places = new Map<Value, number>();
  const put = (elements: number, dtype: DType = "f32") => {
    const v = value(places.size, elements, dtype);
    places.set(v, at);
    at = align(at + bytesOf(v)) + GUARD;
    return v;
  };
  const inputs = ins.map((data) => put(data.length, dtypeOf(data)));
  const outputs = updates.map((out) =>
    typeof out === "number"
      ? put(out)
      : "inPlace" in out
      ? inputs[out.inPlace]!
      : put(out.length, dtypeOf(out))
  );
  const made = program(
    [
      { kind, ins: inputs, outs: updates === outs ? outputs : [], attrs: withLayout(kind, attrs) },
    ],
    places,
    at,
  );
  const arena = new DeviceSegment(at);
  arena.fill(0, at, PATTERN);
  inputs.forEach((v, i) => arena.write(places.get(v)!, ins[i]!));
  updates.forEach((out, i) =>
    typeof out !== "number" && "length" in out && arena.write(places.get(outputs[i]!)!, out)
  );
  const check = () => {
    const all = arena.read(0, new Uint8Array(at));
    const touched = new Uint8Array(at);
    for (const [v, offset] of places) touched.fill(1, offset, offset + bytesOf(v));
    for (let i = 0; i < at; i++) {
      if (!touched[i]) assert.equal(all[i], PATTERN, `${kind} wrote byte ${i}, past an operand`);
    }
    inputs.forEach((v, i) => {
      if (outputs.includes(v)) return;
      const now = arena.read(places.get(v)!, new Uint8Array(ins[i]!.byteLength));
      assert.deepEqual(now, bytes(ins[i]!), `${kind} changed input ${i}`);
    });
  };
  const reads = outputs.map((v) => {
    return { offset: places.get(v)!, elements: v.shape[0] as number, dtype: v.dtype };
  });
  return { program: made, arena, at: inputs.map((v) => places.get(v)!), reads, check };
}

const withLayout = (kind: OpKind, attrs: readonly Attr[]): readonly Attr[] =>
  attrs.length === layoutAt(kind) ? [...attrs, 1] : attrs;

/** What one rank brings to an operation. */
export interface Rank {
  readonly ins: readonly Data[];
  readonly outs: readonly Out[];
  readonly attrs: readonly Attr[];
  readonly updates?: readonly Out[];
}

/** Runs one operation on a device per rank and returns every rank's outputs as floats, bf16 widened; every guard and input is checked. */
export async function runRanks(
  kind: OpKind,
  ranks: readonly Rank[],
  threads = 1,
): Promise<Float32Array<ArrayBuffer>[][]> {
  using group = Group.create(ranks.length, 20);
  const prepared = ranks.map((r) => prepare(kind, r.ins, r.outs, r.attrs, r.updates ?? r.outs));
  const loaded = prepared.map((p) => LoadedProgram.load(p.program));
  try {
    const jobs = prepared.map(({ arena }, rank) =>
      device(threads, rank).submit(loaded[rank]!, { arena }, ONE, { groups: onEveryAxis(group, rank) })
    );
    const ends = await Promise.allSettled(jobs.map((job) => job.done));
    const failed = ends.flatMap((end) => end.status === "rejected" ? [end.reason] : []);
    if (failed.length > 0) throw failed.find((e) => e.status === STATUS.FAILED) ?? failed[0];
    return prepared.map(({ arena, reads, check }) => {
      check();
      return reads.map(({ offset, elements, dtype }) =>
        dtype === "bf16"
          ? widened(arena.read(offset, new Uint16Array(elements))) as Float32Array<ArrayBuffer>
          : arena.read(offset, new Float32Array(elements))
      );
    });
  } finally {
    for (const p of loaded) p.dispose();
    for (const p of prepared) p.arena.dispose();
  }
}

/** {@link runRanks} with one rank. */
export async function run(
  kind: OpKind,
  ins: readonly Data[],
  outs: readonly Out[],
  attrs: readonly Attr[],
  threads = 2,
  updates: readonly Out[] = outs,
): Promise<Float32Array<ArrayBuffer>[]> {
  return (await runRanks(kind, [{ ins, outs, attrs, updates }], threads))[0]!;
}

export const bytes = (data: ArrayBufferView<ArrayBuffer>): Uint8Array =>
  new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
export const integers = (data: Float32Array<ArrayBuffer>): Int32Array<ArrayBuffer> =>
  new Int32Array(data.buffer, data.byteOffset, data.length);
export const ints = (...values: readonly number[]): Int32Array<ArrayBuffer> => Int32Array.from(values);
export const floats = (...values: readonly number[]): Float32Array<ArrayBuffer> => Float32Array.from(values);
/** Doubles as an operand: two elements each. */
export const doubles = (...values: readonly number[]): Float32Array<ArrayBuffer> =>
  new Float32Array(Float64Array.from(values).buffer);

/** The same bits, whatever they mean. */
export function assertSameBits(actual: Data, expected: Data, message: string): void {
  assert.equal(actual.length, expected.length, message);
  const a = new Uint32Array(actual.buffer, actual.byteOffset, actual.length);
  const b = new Uint32Array(expected.buffer, expected.byteOffset, expected.length);
  for (let i = 0; i < a.length; i++) {
    if (a[i] !== b[i]) assert.fail(`${message}: element ${i} is ${actual[i]} and not ${expected[i]}`);
  }
}

/** Within `tolerance` of the largest expected magnitude, at least `floor`: a difference of large terms may be near zero. */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number,
  message: string,
  floor = 1e-30,
): void {
  assert.equal(actual.length, expected.length, message);
  let scale = floor;
  for (let i = 0; i < expected.length; i++) {
    if (Number.isFinite(expected[i])) scale = Math.max(scale, Math.abs(expected[i]!));
  }
  for (let i = 0; i < expected.length; i++) {
    const same = Object.is(actual[i], expected[i]) || actual[i] === expected[i];
    if (!same && !(Math.abs(actual[i]! - expected[i]!) <= tolerance * scale)) {
      assert.fail(`${message}: element ${i} is ${actual[i]} and not ${expected[i]} (scale ${scale})`);
    }
  }
}

/** Deterministic numbers (a 32-bit mixing generator). */
export function generator(seed: number): () => number {
  let s = seed >>> 0;
  return () => {
    s = (s + 0x9e3779b9) >>> 0;
    let z = s;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 2 ** 32;
  };
}
export function normal(n: number, next: () => number, scale = 1): Float32Array<ArrayBuffer> {
  return Float32Array.from(
    { length: n },
    () => scale * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()),
  );
}
export const below = (n: number, limit: number, next: () => number): Int32Array<ArrayBuffer> =>
  Int32Array.from({ length: n }, () => Math.floor(next() * limit));

/** An [n, k] matrix in panels of 16 rows, zero past n. */
export function panels(w: Float32Array, n: number, k: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(Math.ceil(n / 16) * 16 * k);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < k; j++) out[(i >> 4) * 16 * k + 16 * j + (i & 15)] = w[i * k + j]!;
  }
  return out;
}
/** Ends of segments with these lengths. */
export function ends(lengths: readonly number[]): Int32Array<ArrayBuffer> {
  let end = 0;
  return Int32Array.from(lengths, (length) => end += length);
}
