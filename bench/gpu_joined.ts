/**
 * Part of `deno task bench:gpu`: the products of a decode step's rows by joined operations and one after another, bf16 with weights in rows, as
 * captured graphs replay them: what launches and grids of few blocks cost. Layers have weights of their own, so that these come from memory.
 */
import { toBfloat16 } from "../engine/half.ts";
import { describe, Device, DeviceSegment, LoadedProgram } from "../ffi/device.ts";
import { openGpus } from "../ffi/gpus.ts";
import { align, type Op, type Value } from "../ir/op.ts";
import { ONE, program, value } from "../tests/native/harness.ts";
import { floorSeconds } from "./gpu_floor.ts";

/** Hidden size, widths of q and of k and v, inner size. */
interface Shape {
  readonly name: string;
  readonly h: number;
  readonly q: number;
  readonly kv: number;
  readonly inner: number;
}
interface Sizes {
  readonly shapes: readonly Shape[];
  readonly rows: readonly number[];
  /** Layers in a program. */
  readonly layers: number;
  /** Weights of different layers hold so many bytes, more than a cache. */
  readonly distinct: number;
  readonly replays: number;
}
const SIZES: Sizes = {
  shapes: [
    { name: "8B", h: 4096, q: 4096, kv: 1024, inner: 14336 },
    { name: "1.7B", h: 2048, q: 2048, kv: 1024, inner: 6144 },
    { name: "0.6B", h: 1024, q: 2048, kv: 1024, inner: 3072 },
  ],
  rows: [1, 8, 16, 32, 64],
  layers: 64,
  distinct: 256 << 20,
  replays: 7,
};
const SMALL: Sizes = {
  shapes: [{ name: "tiny", h: 32, q: 32, kv: 16, inner: 48 }],
  rows: [1, 20],
  layers: 2,
  distinct: 1 << 13,
  replays: 1,
};

const round = (x: number) => Number(x.toPrecision(3));
const median = (xs: readonly number[]) => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;

/** What a layer's products are made of, and how they can be done. */
interface Products {
  readonly name: string;
  /** Outputs of every weight. */
  readonly widths: readonly number[];
  readonly joined: (x: Value, w: readonly Value[], y: readonly Value[]) => readonly Op[];
  readonly single: (x: Value, w: readonly Value[], y: readonly Value[]) => readonly Op[];
}

function productsOf({ h, q, kv, inner }: Shape, m: number): Products[] {
  const matmuls = (widths: readonly number[]) => (x: Value, w: readonly Value[], y: readonly Value[]) =>
    widths.map((n, i): Op => ({ kind: "matmul", ins: [x, w[i]!], outs: [y[i]!], attrs: [m, n, h, 0, 0] }));
  const heads = [q, kv, kv], gated = [inner, inner];
  return [
    {
      name: "q, k and v",
      widths: heads,
      joined: (x, w, y) => [{ kind: "matmul3", ins: [x, ...w], outs: y, attrs: [m, ...heads, h, 0, 0] }],
      single: matmuls(heads),
    },
    {
      name: "gate and up",
      widths: gated,
      joined: (x, w, y) => [{ kind: "gatedMatmul", ins: [x, ...w], outs: [y[0]!], attrs: [m, inner, h, 0] }],
      single: (x, w, y) => [
        ...matmuls(gated)(x, w, y),
        { kind: "swiglu", ins: y, outs: [y[0]!], attrs: [m * inner] },
      ],
    },
  ];
}

/** Memory in which operands follow each other, and fresh random numbers in all of it. */
class Layout {
  readonly places = new Map<Value, number>();
  bytes = 0;

  put(elements: number): Value {
    const v = value(this.places.size, elements, "bf16");
    this.places.set(v, this.bytes);
    this.bytes = align(this.bytes + 2 * elements);
    return v;
  }

  fill(arena: DeviceSegment): void {
    let s = 1;
    const some = toBfloat16(Float32Array.from({ length: Math.min(1 << 20, this.bytes >> 1) }, () => {
      s = Math.imul(s ^ (s >>> 15), 0x2c1b3c6d) + 0x6d2b79f5 >>> 0;
      return s / 2 ** 31 - 1;
    }));
    for (let at = 0; at < this.bytes; at += some.byteLength) {
      arena.write(at, some.subarray(0, (this.bytes - at) >> 1));
    }
  }
}

/** Median seconds of the operations of one layer. */
async function layerSeconds(device: Device, ops: readonly Op[], o: {
  readonly layout: Layout;
  readonly arena: DeviceSegment;
  readonly sizes: Sizes;
}): Promise<number> {
  const { layout: { places, bytes }, arena, sizes: { layers, replays } } = o, times: number[] = [];
  using loaded = LoadedProgram.load(program(ops, places, bytes));
  // The first run is issued, the second one captured.
  for (let i = 0; i < replays + 2; i++) {
    const { begin, end } = await device.submit(loaded, { arena }, ONE).done;
    if (i > 1) times.push(1e-3 * (end - begin) / layers);
  }
  return median(times);
}

openGpus([0]);
using device = Device.open({ threads: 1, gpu: 0 });
device.profileEvery(0);
const sizes = describe().gpus?.[0]?.name === "emulation" ? SMALL : SIZES, found: string[] = [];
for (const shape of sizes.shapes) {
  for (const rows of sizes.rows) {
    for (const { name, widths, joined, single } of productsOf(shape, rows)) {
      const layout = new Layout(),
        x = layout.put(rows * shape.h),
        y = widths.map((n) => layout.put(rows * n));
      const bytes = 2 * (rows * shape.h + widths.reduce((sum, n) => sum + n * (shape.h + rows), 0));
      const sets = Math.min(sizes.layers, Math.ceil(sizes.distinct / bytes));
      const weights = Array.from({ length: sets }, () => widths.map((n) => layout.put(n * shape.h)));
      using arena = new DeviceSegment(layout.bytes, { near: device });
      layout.fill(arena);
      const layers = (ops: Products["joined"]) =>
        Array.from({ length: sizes.layers }, (_, i) => ops(x, weights[i % sets]!, y)).flat();
      const at = { layout, arena, sizes }, micro = (seconds: number) => round(1e6 * seconds);
      const one = await layerSeconds(device, layers(joined), at),
        several = await layerSeconds(device, layers(single), at);
      const flops = 2 * rows * shape.h * widths.reduce((a, b) => a + b);
      const what = `${name} of ${shape.name}, ${rows} rows: joined ${micro(one)} µs, single ${
        micro(several)
      } µs`;
      found.push(`${name} ${shape.name} x${rows} ${round(several / one)}`);
      console.log(JSON.stringify({
        what,
        rows,
        joinedMicroseconds: micro(one),
        oneByOneMicroseconds: micro(several),
        floorMicroseconds: micro(floorSeconds({ flops, bytes })),
        GBps: round(1e-9 * bytes / one),
      }));
    }
  }
}
console.log(JSON.stringify({ what: `one by one over joined: ${found.join(", ")}`, best: true }));
Deno.exit(0);
