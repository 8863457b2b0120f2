/**
 * Fits the compact profiles of `profiles/` from measured tables of GEMM, attention and NCCL:
 *
 *     deno run --allow-read --allow-write tools/profile_tables.ts FOLDER
 *
 * FOLDER has `SYSTEM_gemm.csv` (m, n, k, latency_ms), `SYSTEM_context_attention.csv` and `SYSTEM_generation_attention.csv`
 * (batch_size, isl, step, num_heads, num_key_value_heads, latency_ms), `SYSTEM_nccl_half.csv` (op_name, num_gpus, message_size in
 * elements of two bytes, latency_ms), as in ai-dynamo/aiconfigurator (Apache-2.0).
 */
import type { CollectiveRate, Profile } from "../planner/profile.ts";
import { lookUp, monotone, type Table } from "../ir/table.ts";

type Row = Readonly<Record<string, string>>;
/** A measurement: the coordinates of its table, and seconds. */
interface Point {
  readonly at: readonly number[];
  readonly seconds: number;
}

/** What the tables do not say: data sheets and the published system description of the same source. */
const SYSTEMS = {
  a100: {
    csv: "a100_sxm",
    memory: 2039,
    gemms: "a100_sxm",
    host: 32,
    intra: 300,
    inter: 25,
    context: "a100_sxm",
    bytes: 80,
  },
  h100: {
    csv: "h100_sxm",
    memory: 3350,
    gemms: "h100_sxm",
    host: 64,
    intra: 450,
    inter: 50,
    context: "h100_sxm",
    bytes: 80,
  },
  // Context attention of H200 is that of H100, the same chip: a third of the published H200 rows are faster than its peak.
  h200: {
    csv: "h200_sxm",
    memory: 4800,
    gemms: "h200_sxm",
    host: 64,
    intra: 450,
    inter: 50,
    context: "h100_sxm",
    bytes: 141,
  },
} as const;

/** Of memory bandwidth that kernels reach, and what the driver and libraries keep of the memory. */
const REACHED = 0.8, KEPT = 4 * 2 ** 30;

const WIDTHS = [32, 128, 512, 1024, 2048, 4096, 8192, 16384, 65536];
const GRIDS = {
  gemm: (most: number) =>
    [[1, 16, 64, 128, 256, 512, 1024, 2048, 8192, 32768].filter((m) => m <= most), WIDTHS, WIDTHS] as const,
  context: [[1, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384], [
    1,
    4,
    8,
    16,
    32,
    64,
    128,
    256,
    512,
    1024,
    4096,
  ]],
  generation: [
    [1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192],
    [1, 7, 31, 127, 255, 511, 1023, 2047, 4095, 8191, 16383, 32767, 131071],
  ],
} as const;

async function rows(path: string): Promise<Row[]> {
  const [head, ...lines] = (await Deno.readTextFile(path)).trim().split("\n");
  const names = head!.split(",");
  return lines.map((line) => Object.fromEntries(line.split(",").map((v, i) => [names[i]!, v])));
}

const points = (all: readonly Row[], at: (r: Row) => readonly number[]): Point[] =>
  all.map((r) => ({ at: at(r), seconds: Number(r.latency_ms) / 1000 }));

/** The median measurement at every point of the grid; where there is none, the nearest one in proportion. */
export function fit(axes: readonly (readonly number[])[], measured: readonly Point[]): Table {
  const groups = Map.groupBy(measured, (p) => p.at.join());
  const known = [...groups.values()].map((g) => ({ at: g[0]!.at, seconds: median(g.map((p) => p.seconds)) }));
  const inGrid = known.filter((p) => p.at.every((x, i) => axes[i]!.includes(x)));
  const byPoint = new Map(inGrid.map((p) => [p.at.join(), p.seconds]));
  const grid = axes.reduce<number[][]>((all, axis) => all.flatMap((p) => axis.map((x) => [...p, x])), [[]]);
  const seconds = grid.map((at) => byPoint.get(at.join()) ?? nearest(at, inGrid));
  const table = monotone({ axes, seconds });
  return { axes, seconds: table.seconds.map((s) => Number(s.toPrecision(4))) };
}

function nearest(at: readonly number[], known: readonly Point[]): number {
  const distance = (p: Point) => p.at.reduce((n, x, i) => n + Math.abs(Math.log(x / at[i]!)), 0);
  const best = known.reduce((a, b) => distance(b) < distance(a) ? b : a);
  return best.seconds * Math.max(1, at.reduce((n, x, i) => n * x / best.at[i]!, 1));
}

const median = (xs: readonly number[]): number => {
  const sorted = [...xs].sort((a, b) => a - b);
  return sorted[sorted.length >> 1]!;
};

/** Relative errors of a table at measurements that are no points of its grid. */
export const heldOutErrors = (table: Table, measured: readonly Point[]): number[] =>
  measured.filter((p) => !p.at.every((x, i) => table.axes[i]!.includes(x)))
    .map((p) => Math.abs(lookUp(table, p.at) / p.seconds - 1));

const KINDS = {
  all_reduce: "allReduce",
  all_gather: "allGatherRows",
  reduce_scatter: "reduceScatterRows",
} as const;

/** α and β with the least squared relative error, for every operation and number of GPUs. */
function collectives(all: readonly Row[]): CollectiveRate[] {
  return Object.entries(KINDS).flatMap(([name, kind]) =>
    [2, 4, 8].map((ranks): CollectiveRate => {
      // nccl-tests gives the size of the gathered or scattered whole.
      const own = all.filter((r) => r.op_name === name && Number(r.num_gpus) === ranks)
        .map((r) => ({ bytes: 2 * Number(r.message_size), seconds: Number(r.latency_ms) / 1000 }));
      const share = (kind === "allReduce" ? 2 : 1) * (ranks - 1) / ranks;
      // Weighted by 1/t²: t ≈ α + β·x, both at least 0.
      let [s, sx, sxx, st, sxt] = [0, 0, 0, 0, 0];
      for (const { bytes, seconds: t } of own) {
        const x = share * bytes, w = 1 / t ** 2;
        s += w, sx += w * x, sxx += w * x * x, st += w * t, sxt += w * x * t;
      }
      const beta = (s * sxt - sx * st) / (s * sxx - sx * sx), alpha = (st - beta * sx) / s;
      return {
        kind,
        ranks,
        microseconds: Number((alpha * 1e6).toPrecision(3)),
        GBps: Number((1 / beta / 1e9).toPrecision(3)),
      };
    })
  );
}

/** Held-out rows that the tests look at; rows of one batch size stand together, so they are drawn by a seeded generator. */
const SAMPLE = 200;
type Sample = Record<string, Record<string, readonly (readonly number[])[]>>;

function sampleOf(table: Table, measured: readonly Point[]): number[][] {
  const held = measured.filter((p) => !p.at.every((x, i) => table.axes[i]!.includes(x)));
  let state = 12345;
  const next = () => (state = Math.imul(state, 1664525) + 1013904223 >>> 0) / 2 ** 32;
  return Array.from({ length: SAMPLE }, () => held[Math.floor(next() * held.length)]!)
    .map((p) => [...p.at, p.seconds]);
}

async function profileOf(name: keyof typeof SYSTEMS, folder: string, sample: Sample): Promise<Profile> {
  const s = SYSTEMS[name], read = (system: string, what: string) => rows(`${folder}/${system}_${what}.csv`);
  const gemm = points(await read(s.gemms, "gemm"), (r) => [r.m!, r.n!, r.k!].map(Number));
  const context = points(
    await read(s.context, "context_attention"),
    (r) => [Number(r.isl), Number(r.batch_size) * Number(r.num_heads)],
  );
  const generation = points(
    await read(s.csv, "generation_attention"),
    (r) => [Number(r.batch_size) * Number(r.num_key_value_heads), Number(r.step)],
  );
  const most = Math.max(...gemm.map((p) => p.at[0]!));
  const tables = {
    matmul: fit(GRIDS.gemm(most), gemm),
    attention: fit(GRIDS.context, context),
    pagedAttention: fit(GRIDS.generation, generation),
  };
  const all = { matmul: gemm, attention: context, pagedAttention: generation };
  sample[name] = Object.fromEntries(
    Object.entries(tables).map(([kind, table]) => [kind, sampleOf(table, all[kind as keyof typeof all])]),
  );
  for (const [kind, table] of Object.entries(tables)) {
    const errors = heldOutErrors(table, all[kind as keyof typeof all]);
    console.error(
      `${name} ${kind}: ${errors.length} held-out rows, median error ${(100 * median(errors)).toFixed(1)} %`,
    );
  }
  return {
    version: 1,
    name: `${name.toUpperCase()} SXM, ${s.bytes} GB`,
    source:
      "fitted from measured bf16 tables of ai-dynamo/aiconfigurator @095f58a5 (Apache-2.0); memory, PCIe and network " +
      `figures from its system description${
        s.context === s.csv ? "" : "; context attention measured on H100, the same chip"
      }`,
    elementBytes: 2,
    memoryBytes: s.bytes * (s.bytes === 80 ? 2 ** 30 : 1e9) - KEPT,
    memoryGBps: s.memory * REACHED,
    hostGBps: s.host * REACHED,
    launchMicroseconds: 3,
    submitMicroseconds: 20,
    roundMicroseconds: 20,
    tables,
    collectives: collectives(await read(s.csv, "nccl_half")),
    links: [
      { devices: 8, microseconds: 10, GBps: s.intra },
      { devices: 1024, microseconds: 20, GBps: s.inter },
    ],
  };
}

if (import.meta.main) {
  const [folder] = Deno.args;
  if (!folder) throw new TypeError("Cannot fit profiles: no folder of tables is given, give its path");
  const sample: Sample = {};
  for (const name of Object.keys(SYSTEMS) as (keyof typeof SYSTEMS)[]) {
    const profile = await profileOf(name, folder, sample),
      url = new URL(`../profiles/${name}.json`, import.meta.url);
    const text = JSON.stringify(profile, null, 1).replace(/\n\s+(?=[\d\]])/g, " ");
    await Deno.writeTextFile(url, `${text}\n`);
  }
  await Deno.writeTextFile(
    new URL("../tests/pure/profile_sample.json", import.meta.url),
    `${JSON.stringify(sample).replaceAll("]],", "]],\n")}\n`,
  );
}
