/** One operation of the CUDA backend on random numbers, timed by its own events. */
import { encode } from "../compiler/encode.ts";
import { type Device, DeviceSegment, LoadedProgram } from "../ffi/device.ts";
import { fromBfloat16, toBfloat16 } from "../engine/half.ts";
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

/** An operation with its memory on a device, filled and ready. */
export interface Prepared extends Disposable {
  /** Runs it once and returns how long the GPU was at it. */
  readonly seconds: () => Promise<number>;
  /** The numbers of an operand: inputs first, then outputs. */
  readonly read: (operand: number) => Float32Array<ArrayBuffer>;
}

/** What an operation is measured on. */
export interface OperationCase {
  readonly kind: OpKind;
  readonly ins: readonly Input[];
  /** Elements of each output. */
  readonly outs: readonly number[];
  readonly attrs: readonly number[];
  /** How floats are stored, those of `f32` operands (by place, inputs first) excepted. */
  readonly dtype?: "f32" | "bf16";
  readonly f32?: readonly number[];
}

/** Lays an operation out on a device; its integers and random floats are written, its outputs hold NaN. */
export function prepareOperation(
  device: Device,
  { kind, ins, outs, attrs, dtype = "f32", f32 = [] }: OperationCase,
): Prepared {
  let bytes = 0;
  const places = new Map<Value, number>();
  const put = (elements: number, type: Value["dtype"]): Value => {
    const v: Value = { id: places.size, name: `v${places.size}`, shape: [elements], dtype: type };
    places.set(v, bytes);
    bytes = align(bytes + (type === "bf16" ? 2 : 4) * elements);
    return v;
  };
  const floatType = (place: number) => f32.includes(place) ? "f32" : dtype;
  const inputs = ins.map((x, i) => typeof x === "number" ? put(x, floatType(i)) : put(x.length, "i32"));
  const outputs = outs.map((n, i) => put(n, floatType(ins.length + i)));
  const segmentBytes = Object.fromEntries(
    SEGMENTS.map((s) => [s, s === "arena" ? bytes : 0]),
  ) as Program["segmentBytes"];
  const op: Op = { kind, ins: inputs, outs: outputs, attrs };
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
  using held = new DisposableStack();
  const arena = held.use(new DeviceSegment(bytes, { near: device })),
    loaded = held.use(LoadedProgram.load(program));
  arena.fill(0, bytes, 0xff);
  inputs.forEach((v, i) => {
    const x = ins[i]!, data = typeof x === "number" ? randoms(x, i + 1) : x;
    arena.write(places.get(v)!, v.dtype === "bf16" ? toBfloat16(data as Float32Array) : data);
  });
  device.profileEvery(1);
  device.profile();
  const kept = held.move(), operands = [...inputs, ...outputs];
  return {
    seconds: async () => {
      await device.submit(loaded, { arena }, ONE).done;
      return (device.profile()["all"] ?? 0) * 1e-9;
    },
    read: (operand) => {
      const v = operands[operand]!, n = v.shape[0] as number, at = places.get(v)!;
      return v.dtype === "bf16"
        ? fromBfloat16(arena.read(at, new Uint16Array(n)))
        : arena.read(at, new Float32Array(n));
    },
    [Symbol.dispose]: () => kept[Symbol.dispose](),
  };
}

/** Median seconds of one operation. */
export async function operationSeconds(device: Device, c: OperationCase, repetitions = 11): Promise<number> {
  using op = prepareOperation(device, c);
  await op.seconds(); // the first one loads code
  const seconds: number[] = [];
  for (let i = 0; i < repetitions; i++) seconds.push(await op.seconds());
  return seconds.sort((a, b) => a - b)[seconds.length >> 1]!;
}
