/** Measures what the devices of this machine can do, operation by operation, as the planner's profile has it. */
import {
  compileDecode,
  compileInfer,
  compilePrefill,
  compileTrain,
  compileUpdate,
} from "../compiler/compile.ts";
import { elementsOf } from "../compiler/traffic.ts";
import { shardsOf } from "../compiler/layout.ts";
import { type ModelConfig, parseConfig } from "../compiler/models/config.ts";
import { SINGLE, type Storage } from "../compiler/models/storage.ts";
import type { Expr } from "../ir/expr.ts";
import type { AdamW, Sampling } from "../ir/graph.ts";
import { BYTES, type Maxima, type OpKind } from "../ir/op.ts";
import type { Work } from "../ir/program.ts";
import { extent } from "../ir/op.ts";
import { lookUp, monotone, type Table } from "../ir/table.ts";
import type { Devices } from "./devices.ts";
import { measureCase, type Measured, median, pagesFor, type ProfileCase } from "./profile_runs.ts";

/** What was measured; the planner reads it as a profile. */
export interface DeviceProfile {
  readonly tables: Readonly<Partial<Record<OpKind, Table>>> & { readonly matmul: Table };
  readonly memoryGBps: number;
  readonly launchMicroseconds: number;
  readonly submitMicroseconds: number;
}

const PRODUCTS = {
  m: [1, 4, 16, 64, 256, 1024],
  n: [16, 64, 256, 1024, 4096],
  k: [16, 64, 256, 1024],
} as const;
const MODES = { matmul: "forward", matmulDx: "input", matmulDw: "weight" } as const;
/** Repetitions of a product, so that small ones are more than the clock's grain. */
const WORK = 2e8;

const model = (hidden: number, vocab: number): ModelConfig =>
  parseConfig({
    model_type: "llama",
    hidden_size: hidden,
    num_hidden_layers: 2,
    num_attention_heads: hidden / 32,
    num_key_value_heads: hidden / 64,
    intermediate_size: 11 * hidden / 4,
    vocab_size: vocab,
    max_position_embeddings: 4096,
    hidden_act: "silu",
  }, "the model of a profile");
const MODELS = [model(64, 512), model(256, 4096)];
/** Tokens and sequences of a program. */
const BATCHES = [[128, 8], [512, 8], [1024, 4], [2048, 2], [2048, 64]] as const;
const DECODES = [[1, 32], [8, 32], [32, 32], [32, 256], [64, 1000], [128, 64]] as const;

const OPTIMIZER: AdamW = {
  name: "adamw",
  lr: 1e-4,
  betas: [0.9, 0.95],
  eps: 1e-8,
  weightDecay: 0.1,
  decay: "all",
  clip: 1,
  schedule: "constant",
  warmup: 0,
  minRatio: 0,
};
const SAMPLING: Sampling = {
  maxNewTokens: 64,
  temperature: 1,
  topK: 0,
  topP: 1,
  samples: 1,
  stop: [],
  ignoreEos: true,
  maxLag: 0,
};
/** The mean log-probability of the actions. */
const LOSS: Expr = {
  ops: [
    { op: "input", field: "logprobs", from: "model", per: "token" },
    { op: "mean", args: [0], per: "batch" },
    { op: "neg", args: [1], per: "batch" },
  ],
  outputs: { loss: 2 },
};

/**
 * Measures in a minute or two.
 *
 * @param onProgress gets the share that is done
 * @param storage what numbers are stored in
 */
export async function measureDevices(
  devices: Devices,
  onProgress: (share: number) => void = () => {},
  storage: Storage = SINGLE,
): Promise<DeviceProfile> {
  const { weights } = storage, found: Measured[] = [], [first] = devices.all;
  const cases = MODELS.flatMap((config) => casesOf({ ...config, storage }));
  for (const [i, c] of cases.entries()) {
    found.push(await measureCase(devices.all, c));
    onProgress(0.7 * (i + 1) / cases.length);
  }
  const products = Object.entries(MODES).map(([kind, mode], i): [OpKind, Table] => {
    const { m, n, k } = PRODUCTS,
      seconds = m.flatMap((a) =>
        n.flatMap((b) =>
          k.map((c) =>
            first!.productSeconds(
              mode,
              ...inMode(mode, a, b, c),
              Math.max(3, Math.min(300, Math.ceil(WORK / (2 * a * b * c)))),
              weights,
            )
          )
        )
      );
    onProgress(0.7 + 0.1 * (i + 1));
    return [kind as OpKind, risen({ axes: [m, n, k], seconds })];
  });
  const cold = coldSeconds(found, products.find(([kind]) => kind === "matmul")![1]);
  const warmed = products.map((
    [kind, table],
  ): [OpKind, Table] => [kind, kind === "matmulDw" ? table : withWeights(table, cold)]);
  const tables = Object.fromEntries([...warmed, ...fitted(found)]) as DeviceProfile["tables"];
  const overheads = found.map((m) => m.total - Object.values(m.seconds).reduce((a, b) => a + b, 0));
  return {
    tables,
    memoryGBps: bandwidthOf(found, BYTES[weights]),
    launchMicroseconds: 1e6 *
      Math.min(...found.flatMap((m) => Object.values(m.seconds).filter((s) => s > 0))) / 4,
    submitMicroseconds: Math.max(1, 1e6 * median(overheads)),
  };
}

/** What the library calls rows, outputs and inputs of the product y[m,n] = x[m,k]·wᵀ that a table is about. */
function inMode(
  mode: typeof MODES[keyof typeof MODES],
  m: number,
  n: number,
  k: number,
): [number, number, number] {
  // dx[m, n=K] = dy[m, k=N]·w and dw[m=N, n=K] = dyᵀ[k=M]·x, as rows, N and K of the weight.
  if (mode === "forward") return [m, n, k];
  return mode === "input" ? [m, k, n] : [k, m, n];
}

/**
 * Seconds that an element of a weight takes beside the product itself: products are measured again and again with the same
 * weights, which stay in the cache; those of a program come from memory. From decode programs, which do little else.
 */
function coldSeconds(found: readonly Measured[], products: Table): number {
  const rates = found.flatMap((m) => {
    const work = m.program.work.filter((w) => w.kind === "matmul"), measured = m.seconds.matmul ?? 0;
    if (m.context === 0 || !measured) return [];
    const at = (w: Work) => [0, 1, 2].map((i) => extent(w.attrs[i]!, m.live)) as [number, number, number];
    const warm = work.reduce((n, w) => n + lookUp(products, at(w)), 0);
    return [Math.max(0, measured - warm) / work.reduce((n, w) => n + at(w)[1] * at(w)[2], 0)];
  });
  return median(rates);
}

/** The table of products whose weights come from memory. */
const withWeights = ({ axes, seconds }: Table, cold: number): Table => {
  const [, n, k] = axes as [readonly number[], readonly number[], readonly number[]];
  return risen({
    axes,
    seconds: seconds.map((s, i) => s + cold * n[Math.floor(i / k.length) % n.length]! * k[i % k.length]!),
  });
};

/** A table with four digits of every measurement. */
function risen({ axes, seconds }: Table): Table {
  return monotone({ axes, seconds: seconds.map((s) => Number(Math.max(s, 1e-9).toPrecision(4))) });
}

function casesOf(config: ModelConfig): ProfileCase[] {
  const lm = shardsOf(config, "lm", { tp: 1, pp: 1 })[0]![0]!, cases: ProfileCase[] = [];
  const none: Maxima = { one: 1, tokens: 0, actions: 0, sequences: 0, groups: 0, pairs: 0, shard: 0 };
  for (const [tokens, sequences] of BATCHES) {
    const live = { ...none, tokens, sequences, actions: tokens / 2, groups: sequences, pairs: sequences / 2 };
    const add = (program: ProfileCase["program"], dims: Maxima = live, context = 0) =>
      cases.push({ program, live: dims, context });
    add(compileInfer(lm, { maxima: live, outputs: ["logprobs"] }));
    add(compileTrain(lm, { maxima: live, loss: LOSS, fields: {}, recompute: "logits" }).backward);
    const generate = {
      ...pagesFor(sequences, tokens / sequences),
      slots: sequences,
      maxNew: 64,
      stops: 1,
      sampling: SAMPLING,
    };
    const entering = { ...live, actions: sequences };
    add(compilePrefill(lm, { ...generate, maxima: entering }), entering);
  }
  for (const [rows, context] of DECODES) {
    const live = { ...none, tokens: rows, sequences: rows };
    const generate = { ...pagesFor(rows, context), slots: rows, maxNew: 64, stops: 1, sampling: SAMPLING };
    cases.push({ program: compileDecode(lm, { ...generate, maxima: live }), live, context });
  }
  cases.push({ program: compileUpdate(lm, OPTIMIZER), live: none, context: 0 });
  return cases;
}

/** Kinds whose tables are about something else than elements, or that are made of others. */
const PRODUCT_KINDS: readonly string[] = [...Object.keys(MODES), "matmul2", "matmul3", "gatedMatmul"];

/** A table for every other kind of operation that was seen. */
function fitted(found: readonly Measured[]): [OpKind, Table][] {
  const kinds = new Set(found.flatMap((m) => m.program.work.map((w) => w.kind)));
  return [...kinds].filter((k) => !PRODUCT_KINDS.includes(k)).flatMap((kind): [OpKind, Table][] => {
    const seen = found.flatMap((m) => {
      const work = m.program.work.filter((w) => w.kind === kind), seconds = m.seconds[kind] ?? 0;
      return work.length && seconds > 0 ? [{ m, work, each: seconds / work.length }] : [];
    });
    if (!seen.length) return [];
    const at = (w: Work, m: Measured) => (i: number) => extent(w.attrs[i]!, m.live);
    switch (kind) {
      case "attention":
      case "attentionGrad":
        // Seconds of one head of one sequence, by length, at 128 columns.
        return [[
          kind,
          byLength(seen.map(({ m, work, each }) => {
            const of = at(work[0]!, m), rows = of(1) * of(2);
            return { x: of(0) / of(1), seconds: each / rows * 128 / of(4) };
          })),
        ]];
      case "pagedAttention":
        return [[
          kind,
          byLength(seen.map(({ m, work, each }) => {
            const of = at(work[0]!, m);
            return { x: m.context, seconds: each / (of(0) * of(2)) * 128 / of(3) };
          })),
        ]];
      case "linearLogprob":
      case "linearLogprobGrad": {
        const rates = seen.map(({ m, work, each }) => {
          const of = at(work[0]!, m);
          return each / (of(0) * of(1) * of(2));
        });
        return [[kind, { axes: [[1], [1], [1]], seconds: [median(rates)] }]];
      }
      default:
        return [[
          kind,
          byElements(seen.map(({ m, work, each }) => ({ x: meanElements(work, m.live), seconds: each }))),
        ]];
    }
  });
}

interface Point {
  readonly x: number;
  readonly seconds: number;
}

/** Elements that operations of a kind touch on average. */
const meanElements = (work: readonly Work[], live: Maxima): number =>
  work.reduce((n, w) => n + elementsOf(w, live), 0) / work.length;

/** One more head or row costs as much again. */
function byLength(points: readonly Point[]): Table {
  const { axes, seconds } = byElements(points);
  return { axes: [axes[0]!, [1]], seconds };
}

/** Medians of points that are near one another, in a table that rises. */
function byElements(points: readonly Point[]): Table {
  const groups = Map.groupBy(points.filter((p) => p.x >= 1), (p) => Math.round(Math.log2(p.x)));
  const rows = [...groups.values()].map((g) => {
    const x = median(g.map((p) => p.x));
    return { x: Math.round(x), seconds: x * median(g.map((p) => p.seconds / p.x)) };
  }).sort((a, b) => a.x - b.x).filter((p, i, all) => i === 0 || p.x > all[i - 1]!.x);
  return risen({ axes: [rows.map((r) => r.x)], seconds: rows.map((r) => r.seconds) });
}

/** Of additions of large tensors. */
function bandwidthOf(found: readonly Measured[], each: number): number {
  const rates = found.flatMap((m) => {
    const work = m.program.work.filter((w) => w.kind === "pointwise"), seconds = m.seconds.pointwise ?? 0;
    const elements = work.reduce(
      (n, w) => n + w.elements.reduce((k, d) => k + d.times * m.live[d.symbol], 0),
      0,
    );
    return seconds > 0 ? [each * elements / seconds / 1e9] : [];
  });
  return Math.max(0.1, ...rates);
}
