/** One operation of the CUDA backend on random numbers, timed by its own events. */
import { encode } from "../compiler/encode.ts";
import { type Device, DeviceSegment, LoadedProgram } from "../ffi/device.ts";
import { align, type Maxima, type Op, type OpKind, SEGMENTS, type Value } from "../ir/op.ts";
import type { Program } from "../ir/program.ts";

const ONE: Maxima = { one: 1, tokens: 0, actions: 0, sequences: 0, groups: 0, pairs: 0, shard: 0 };

/** An input: so many random floats, or these integers. */
export type Input = number | Int32Array<ArrayBuffer>;

/** Random floats around zero, one megabyte repeated: never zeros, which are faster than real numbers. */
function randoms(elements: number, seed: number): Float32Array<ArrayBuffer> {
  let s = seed * 0x9e3779b9 >>> 0;
  const few = Float32Array.from({ length: Math.min(elements, 1 << 18) }, () => {
    s = Math.imul(s ^ (s >>> 15), 0x2c1b3c6d) + 0x6d2b79f5 >>> 0;
    return s / 2 ** 31 - 1;
  });
  const all = new Float32Array(elements);
  for (let at = 0; at < elements; at += few.length) all.set(few.subarray(0, elements - at), at);
  return all;
}

/**
 * Median seconds of one operation.
 * @param outs Elements of each output.
 */
export async function operationSeconds(
  device: Device,
  kind: OpKind,
  ins: readonly Input[],
  outs: readonly number[],
  attrs: readonly number[],
  repetitions = 11,
): Promise<number> {
  let bytes = 0;
  const places = new Map<Value, number>();
  const put = (elements: number): Value => {
    const v: Value = { id: places.size, name: `v${places.size}`, shape: [elements], dtype: "f32" };
    places.set(v, bytes);
    bytes = align(bytes + 4 * elements);
    return v;
  };
  const inputs = ins.map((x) => put(typeof x === "number" ? x : x.length)), outputs = outs.map(put);
  const op: Op = { kind, ins: inputs, outs: outputs, attrs };
  const segmentBytes = Object.fromEntries(
    SEGMENTS.map((s) => [s, s === "arena" ? bytes : 0]),
  ) as Program["segmentBytes"];
  const program: Program = {
    name: kind,
    bytes: encode([op], (v) => ({ segment: "arena", offset: places.get(v)! }), segmentBytes, ONE),
    maxima: ONE,
    segmentBytes,
    ports: {},
    table: [],
    liveBytes: bytes,
    operations: 1,
    flops: () => 0,
    work: [],
  };
  using arena = new DeviceSegment(bytes, { near: device });
  using loaded = LoadedProgram.load(program);
  inputs.forEach((v, i) => {
    const x = ins[i]!;
    arena.write(places.get(v)!, typeof x === "number" ? randoms(x, i + 1) : x);
  });
  const seconds: number[] = [];
  device.profile(); // from now on every operation is timed by events
  for (let i = 0; i <= repetitions; i++) {
    await device.submit(loaded, { arena }, ONE).done;
    const { all = 0 } = device.profile();
    if (i > 0) seconds.push(all * 1e-9); // the first one loads code
  }
  return seconds.sort((a, b) => a - b)[seconds.length >> 1]!;
}
