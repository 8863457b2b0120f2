/** Parts of the probe, each run alone by `gpu_probe.ts`: what a GPU does with what this project asks of it. Lines of JSON. */
import { describe, Device, DeviceSegment, Group, LoadedProgram } from "../ffi/device.ts";
import { openGpus } from "../ffi/gpus.ts";
import { AXES, type Op } from "../ir/op.ts";
import { type OperationCase, operationSeconds, prepareOperation } from "./gpu_ops.ts";
import { ONE, program, value } from "../tests/native/harness.ts";

const round = (x: number) => Number(x.toPrecision(3));
const print = (line: { readonly what: string; readonly [key: string]: unknown }) =>
  console.log(JSON.stringify(line));
const median = (xs: readonly number[]) => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;
/** The emulation has the same parts at sizes that it can do. */
const isSmall = () => describe().gpus?.[0]?.name === "emulation";

function machine(): Promise<void> {
  const names = [...Map.groupBy(openGpus([0]), (g) => g.name)].map(([name, all]) =>
    `${all.length} × ${name}`
  );
  const { libraries = {}, driver } = describe();
  const found = Object.entries(libraries).map(([name, v]) =>
    `${name} ${/^\d[^ ]*/.exec(v)?.[0] ?? "missing"}`
  );
  print({
    what: `${names.join(", ")}; CUDA ${driver}; ${found.join(", ")}`,
    ...describe(),
  });
  return Promise.resolve();
}

async function copies(): Promise<void> {
  openGpus([0]);
  using device = Device.open({ threads: 1, gpu: 0 });
  const bytes = isSmall() ? 1 << 20 : 1 << 30, rates: string[] = [];
  using a = new DeviceSegment(bytes, { near: device });
  using b = new DeviceSegment(bytes, { near: device });
  using host = new DeviceSegment(bytes, "host");
  a.fill(0, bytes, 0x3c);
  for (
    const [name, from, to] of [["device to device", a, b], ["host to device", host, a], [
      "device to host",
      a,
      host,
    ]] as const
  ) {
    const move = { from, to, fromOffset: 0, toOffset: 0, bytes, count: 1, fromStride: 0, toStride: 0 },
      spans: number[] = [];
    for (let i = 0; i < 6; i++) {
      const { begin, end } = await device.copy([move]).done;
      if (i > 0) spans.push(end - begin);
    }
    const ms = median(spans), GBps = round((name === "device to device" ? 2 : 1) * bytes / ms * 1e-6);
    rates.push(`${name} ${GBps} GB/s`);
    print({ what: rates.at(-1)!, bytes, ms: round(ms), GBps });
  }
  const fill: OperationCase = { kind: "fill", ins: [], outs: [64], attrs: [64, 0] };
  const empty = round(1e6 * await operationSeconds(device, fill, 21));
  print({ what: `${rates.join(", ")}; the smallest operation ${empty} µs`, microseconds: empty, best: true });
}

const bits = (x: Float32Array<ArrayBuffer>, count: number) => new Uint32Array(x.buffer, 0, count).join();

/** Products over row counts: speed, how far from float64, and whether a row has the same bits whatever is beside it. */
async function products(dtype: "f32" | "bf16", layout: "rows" | "panels" = "rows"): Promise<void> {
  openGpus([0]);
  using device = Device.open({ threads: 1, gpu: 0 });
  const small = isSmall(), [n, k] = small ? [64, 64] : [4096, 4096], panels = Number(layout === "panels");
  const counts = small ? [1, 3, 40] : [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096];
  const rows = new Set<string>(), decoding = new Set<string>();
  let best = "", worst = 0;
  for (const m of counts) {
    using op = prepareOperation(device, {
      kind: "matmul",
      ins: [m * k, n * k],
      outs: [m * n],
      attrs: [m, n, k, panels, 0],
      dtype,
    });
    await op.seconds();
    const times: number[] = [];
    for (let i = 0; i < 7; i++) times.push(await op.seconds());
    const x = op.read(0), w = op.read(1), y = op.read(2), seconds = median(times);
    const place = (j: number, e: number) => panels ? (j >> 4) * 16 * k + 16 * e + (j & 15) : j * k + e;
    let off = 0, norm = 0;
    for (let i = 0; i < 64; i++) {
      const row = Math.floor(i * m / 64), j = (i * 61) % n;
      let exact = 0;
      for (let e = 0; e < k; e++) exact += x[row * k + e]! * w[place(j, e)]!;
      off += (y[row * n + j]! - exact) ** 2, norm += exact ** 2;
    }
    const relative = Math.sqrt(off / norm), TFlops = round(2e-12 * m * n * k / seconds);
    rows.add(bits(y, n)), worst = Math.max(worst, relative);
    if (m <= 128) decoding.add(bits(y, n));
    if (!(relative < 2e-2)) throw new Error(`products of ${m} rows are ${relative} from the truth`);
    best = `${m} rows ${TFlops} TFLOP/s`;
    const GBps = round(1e-9 * (dtype === "bf16" ? 2 : 4) * (m * k + n * k + m * n) / seconds);
    print({ what: best, m, n, k, layout, ms: round(seconds * 1e3), TFlops, GBps, relative: round(relative) });
  }
  if (!panels) await gradients(device, counts.at(-1)!, n, k, dtype);
  print({
    what: `${best}; ${
      round(worst)
    } from float64 at most; row 0 has ${rows.size} different results over ${counts.length} row counts, ${decoding.size} up to 128 rows`,
    best: true,
  });
}

/** The other two products of training: that of the weight goes on with a sum in fp32. */
async function gradients(
  device: Device,
  m: number,
  n: number,
  k: number,
  dtype: "f32" | "bf16",
): Promise<void> {
  const cases: readonly (readonly [string, OperationCase])[] = [
    ["input", { kind: "matmulDx", ins: [m * n, n * k], outs: [m * k], attrs: [m, n, k, 0, 0], dtype }],
    ["weight", {
      kind: "matmulDw",
      ins: [m * n, m * k, n * k],
      outs: [n * k],
      attrs: [m, n, k, 1, 0],
      dtype,
      f32: [2, 3],
    }],
  ];
  for (const [of, c] of cases) {
    const seconds = await operationSeconds(device, c, 5), TFlops = round(2e-12 * m * n * k / seconds);
    print({
      what: `gradient of the ${of}, ${m} rows ${TFlops} TFLOP/s`,
      of,
      m,
      n,
      k,
      ms: round(seconds * 1e3),
      TFlops,
    });
  }
}

/** Attention of an 8B model, forward, backward and in decoding; some rows against float64. */
async function attention(): Promise<void> {
  openGpus([0]);
  using device = Device.open({ threads: 1, gpu: 0 });
  const small = isSmall(), [t, heads, kv, d] = small ? [40, 2, 1, 16] : [8192, 32, 8, 128], scale = d ** -.5;
  const q = t * heads * d, k = t * kv * d, ends = Int32Array.of(t), attrs = [t, 1, heads, kv, d, 0, scale];
  const flops = 2 * t * t * heads * d, found: string[] = [];
  using forward = prepareOperation(device, {
    kind: "attention",
    ins: [q, k, k, ends],
    outs: [q, t * heads],
    attrs,
  });
  await forward.seconds();
  const times: number[] = [];
  for (let i = 0; i < 7; i++) times.push(await forward.seconds());
  const [Q, K, V, O] = [0, 1, 2, 4].map((i) => forward.read(i)) as [
    Float32Array,
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  let off = 0, norm = 0;
  for (const row of [0, 1, t >> 2, t - 1]) {
    const scores = Float64Array.from({ length: row + 1 }, (_, j) => {
      let s = 0;
      for (let e = 0; e < d; e++) s += Q[row * heads * d + e]! * K[j * kv * d + e]!;
      return s * scale;
    });
    const top = Math.max(...scores),
      weights = scores.map((s) => Math.exp(s - top)),
      sum = weights.reduce((a, b) => a + b, 0);
    for (let e = 0; e < d; e++) {
      const exact = weights.reduce((a, p, j) => a + p * V[j * kv * d + e]!, 0) / sum;
      off += (O[row * heads * d + e]! - exact) ** 2, norm += exact ** 2;
    }
  }
  const relative = Math.sqrt(off / norm);
  if (!(relative < 2e-2)) throw new Error(`attention is ${relative} from the truth`);
  const tell = (name: string, seconds: number, work: number, more: object = {}) => {
    found.push(`${name} ${round(1e-12 * work / seconds)} TFLOP/s`);
    print({ what: found.at(-1)!, ms: round(seconds * 1e3), ...more });
  };
  tell("forward", median(times), flops, { relative: round(relative), t, heads, kv, d });
  const backward: OperationCase = {
    kind: "attentionGrad",
    ins: [q, q, k, k, q, t * heads, ends],
    outs: [q, k, k],
    attrs,
  };
  tell("backward", await operationSeconds(device, backward, 5), 2.5 * flops);
  for (const [rows, context] of small ? [[2, 32]] as const : [[1, 32768], [64, 1024], [256, 1024]] as const) {
    const each = Math.ceil(context / 16), pages = rows * each, bytes = 4 * 2 * pages * kv * d * 16;
    const seconds = await operationSeconds(device, {
      kind: "pagedAttention",
      ins: [
        rows * heads * d,
        bytes / 4,
        Int32Array.from({ length: rows }, (_, i) => i),
        new Int32Array(rows).fill(context - 1),
        Int32Array.from({ length: pages }, (_, i) => i),
      ],
      outs: [rows * heads * d],
      attrs: [rows, heads, kv, d, 0, scale, 0, pages, each],
    }, 7);
    found.push(`decode ${rows} × ${context} ${round(1e-9 * bytes / seconds)} GB/s`);
    print({
      what: found.at(-1)!,
      rows,
      context,
      ms: round(seconds * 1e3),
      GBps: round(1e-9 * bytes / seconds),
    });
  }
  print({ what: found.join(", "), best: true });
}

/** A decode step's number of small operations: issued one by one, and replayed as a captured graph. */
async function graphs(): Promise<void> {
  openGpus([0]);
  using device = Device.open({ threads: 1, gpu: 0 });
  device.profileEvery(0);
  const count = 400, x = value(0, 4096), y = value(1, 4096);
  const swiglu: Op = { kind: "swiglu", ins: [x, x], outs: [y], attrs: [4096] };
  using loaded = LoadedProgram.load(program(Array(count).fill(swiglu), new Map([[x, 0], [y, 16384]]), 32768));
  using arena = new DeviceSegment(32768, { near: device });
  const runs: number[] = [];
  for (let i = 0; i < 14; i++) {
    const start = performance.now();
    await device.submit(loaded, { arena }, ONE).done;
    runs.push(performance.now() - start);
  }
  // The first run loads code and is issued, the second one is captured.
  const fresh = Device.open({ threads: 1, gpu: 0 }), start = performance.now();
  await fresh.submit(loaded, { arena }, ONE).done;
  const issued = performance.now() - start, replayed = median(runs.slice(2));
  fresh.close();
  const each = (ms: number) => round(1e3 * ms / count);
  print({
    what: `${count} small operations: ${each(issued)} µs each when issued, ${
      each(replayed)
    } µs when replayed`,
    issuedMs: round(issued),
    captureMs: round(runs[1]!),
    replayedMs: round(replayed),
  });
}

/** Sums over ranks that share a GPU: right, and how fast. */
async function ranks(): Promise<void> {
  openGpus([0]);
  const small = isSmall(), found: string[] = [];
  for (const count of [2, 4]) {
    for (const elements of small ? [1000] : [1 << 18, 1 << 24]) {
      const x = value(0, elements),
        sum: Op = { kind: "allReduce", ins: [x], outs: [x], attrs: [elements, AXES.indexOf("dp")] };
      using loaded = LoadedProgram.load(program([sum], new Map([[x, 0]]), 4 * elements));
      using held = new DisposableStack();
      const devices = Array.from({ length: count }, () => held.use(Device.open({ threads: 1, gpu: 0 })));
      const memory = devices.map((near) => held.use(new DeviceSegment(4 * elements, { near })));
      const group = held.use(Group.create(count, 30)), spans: number[] = [];
      for (let i = 0; i < 8; i++) {
        memory.forEach((m, rank) => m.write(0, new Float32Array(elements).fill(rank + 1)));
        const ends = await Promise.all(
          devices.map((device, rank) =>
            device.submit(loaded, { arena: memory[rank]! }, ONE, { groups: { dp: { group, rank } } }).done
          ),
        );
        if (i > 1) spans.push(Math.max(...ends.map((s) => s.end)) - Math.min(...ends.map((s) => s.begin)));
        const last = memory[count - 1]!.read(4 * (elements - 1), new Float32Array(1))[0];
        if (last !== count * (count + 1) / 2) throw new Error(`the sum over ${count} ranks is ${last}`);
      }
      const ms = median(spans), GBps = round(4e-6 * elements / ms);
      found.push(`${count} ranks ${4 * elements >> 20} MiB ${round(ms)} ms`);
      print({ what: found.at(-1)!, ranks: count, bytes: 4 * elements, ms: round(ms), GBps });
    }
  }
  print({ what: found.join(", "), best: true });
}

/** By name, as `gpu_probe.ts` asks for them. */
export const PARTS = {
  machine,
  copies,
  products: () => products("f32"),
  productsInBf16: () => products("bf16"),
  productsInPanels: () => products("bf16", "panels"),
  attention,
  graphs,
  ranks,
};

if (import.meta.main) {
  await PARTS[Deno.args[0] as keyof typeof PARTS]();
  Deno.exit(0);
}
