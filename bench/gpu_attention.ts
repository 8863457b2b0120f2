/**
 * Part of the probe and of the bench: attention over packed bf16 sequences by our own kernels and, where it can be opened, by cuDNN, and how far their results are
 * apart. `deno run -A bench/gpu_attention.ts`; paths are chosen when the library is opened, so each is a process of its own.
 */
import { describe, Device } from "../ffi/device.ts";
import { openGpus } from "../ffi/gpus.ts";
import { prepareOperation } from "./gpu_ops.ts";

/** What one path gave for one packing of sequences. */
interface Found {
  readonly packing: string;
  readonly seconds: { readonly forward: number; readonly backward: number };
  /** Numbers of o, lse, dq, dk and dv, at even distances. */
  readonly samples: Readonly<Record<string, readonly number[]>>;
  readonly flops: number;
}

const SAMPLES = 4096;
const round = (x: number) => Number(x.toPrecision(3));
const median = (xs: readonly number[]) => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;
const sample = (x: Float32Array) =>
  Array.from(
    { length: Math.min(SAMPLES, x.length) },
    (_, i) => x[Math.floor(i * x.length / Math.min(SAMPLES, x.length))]!,
  );

/** Packings of one number of tokens: a single sequence, and several of all lengths. */
function packings(t: number): readonly (readonly [string, readonly number[]])[] {
  const parts = [1 / 32, 1 / 2, 1 / 8, 3 / 32, 1 / 4].map((share) => Math.floor(share * t));
  return [["one sequence", [t]], ["five sequences", [
    ...parts.slice(1),
    t - parts.slice(1).reduce((a, b) => a + b),
  ]]];
}

async function measure(): Promise<void> {
  openGpus([0]);
  using device = Device.open({ threads: 1, gpu: 0 });
  const small = describe().gpus?.[0]?.name === "emulation";
  const [t, heads, kv, d] = small ? [40, 2, 1, 16] : [8192, 32, 8, 128], repetitions = small ? 1 : 7;
  const q = t * heads * d, k = t * kv * d;
  for (const [packing, lengths] of packings(t)) {
    let end = 0;
    const ends = Int32Array.from(lengths, (n) => end += n),
      attrs = [t, lengths.length, heads, kv, d, 0, d ** -.5];
    const type = { attrs, dtype: "bf16", f32: [5] } as const, samples: Record<string, number[]> = {};
    const timed = async (op: Disposable & { seconds: () => Promise<number> }) => {
      await op.seconds(); // loads code, makes plans
      const times: number[] = [];
      for (let i = 0; i < repetitions; i++) times.push(await op.seconds());
      return median(times);
    };
    using forward = prepareOperation(device, {
      kind: "attention",
      ins: [q, k, k, ends],
      outs: [q, t * heads],
      ...type,
    });
    const first = await timed(forward);
    samples["o"] = sample(forward.read(4)), samples["lse"] = sample(forward.read(5));
    using backward = prepareOperation(device, {
      kind: "attentionGrad",
      ins: [q, q, k, k, q, t * heads, ends],
      outs: [q, k, k],
      ...type,
    });
    const second = await timed(backward);
    ["dq", "dk", "dv"].forEach((name, i) => samples[name] = sample(backward.read(7 + i)));
    const flops = 2 * heads * d * lengths.reduce((sum, n) => sum + n * n, 0);
    const found: Found = { packing, seconds: { forward: first, backward: second }, samples, flops };
    console.log(JSON.stringify(found));
  }
}

/** The same measurement in a process where attention is computed by `path`. */
async function by(path: "own" | "cudnn"): Promise<{ found: Found[]; said: string }> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", import.meta.filename!, "measure"],
    env: { BATON_CUDA_ATTENTION: path },
  }).output();
  const said = new TextDecoder().decode(stderr).trim();
  if (!success) throw new Error(`attention, ${path}: ${said}`);
  const lines = new TextDecoder().decode(stdout).trim().split("\n");
  return { found: lines.map((line) => JSON.parse(line)), said };
}

/** ‖a − b‖ / ‖b‖ */
function apart(a: readonly number[], b: readonly number[]): number {
  let error = 0, norm = 0;
  b.forEach((y, i) => (error += (a[i]! - y) ** 2, norm += y * y));
  return Math.sqrt(error / norm);
}

async function compare(): Promise<void> {
  const own = await by("own"), cudnn = await by("cudnn"), summary: string[] = [];
  const paths = cudnn.said ? [["own", own]] as const : [["own", own], ["cuDNN", cudnn]] as const;
  for (const [name, { found }] of paths) {
    for (const { packing, seconds, flops } of found) {
      const TFlops = {
        forward: round(1e-12 * flops / seconds.forward),
        backward: round(2.5e-12 * flops / seconds.backward),
      };
      const what = `${name}, ${packing}: forward ${TFlops.forward}, backward ${TFlops.backward} TFLOP/s`;
      summary.push(what);
      console.log(JSON.stringify({ what, seconds, TFlops }));
    }
  }
  if (cudnn.said) summary.push(cudnn.said);
  else {
    for (const [i, { packing, samples }] of own.found.entries()) {
      const relative = Object.fromEntries(
        Object.entries(samples).map(([name, x]) => [name, round(apart(cudnn.found[i]!.samples[name]!, x))]),
      );
      const what = `${packing}, cuDNN beside own: ${
        Object.entries(relative).map(([name, x]) => `${name} ${x}`).join(", ")
      } apart`;
      summary.push(what);
      console.log(JSON.stringify({ what, relative }));
      const far = Object.entries(relative).find(([, x]) => !(x < 2e-2));
      if (far) throw new Error(`${far[0]} by cuDNN is ${far[1]} from that by our own kernels (${packing})`);
    }
  }
  console.log(JSON.stringify({ what: summary.join("; "), best: true }));
}

await (Deno.args[0] === "measure" ? measure() : compare());
Deno.exit(0);
