/** Graphs and plans as JSON text: what is written reads back equal, and what was written by another version is refused. */
import { checkGraph } from "./check.ts";
import { BINARY, SHAPE, UNARY } from "./expr.ts";
import { ADAPTABLE, type CallGraph } from "./graph.ts";
import { type ExecutionPlan, RECOMPUTE } from "./plan.ts";
import {
  array,
  boolean,
  count,
  leaf,
  literal,
  nullable,
  number,
  object,
  record,
  type Shape,
  string,
  tagged,
} from "./shape_of.ts";

const per = literal("token", "sequence", "pair", "batch");
const schema = record(object({ per, dtype: literal("f32", "text", "tokens") }, { of: string }));
const ports = record(string);

const args = { per, args: array(count) };
const plain = (kinds: readonly string[]) =>
  kinds.map((op) => [op, object({ op: literal(op), ...args })] as const);
const expr = object({
  ops: array(tagged("op", {
    input: object({ op: string, field: string, from: literal("model", "batch", "state"), per }),
    const: object({ op: string, value: number, per }),
    where: object({ op: string, ...args }),
    ...Object.fromEntries(plain([...UNARY, ...BINARY])),
    ...Object.fromEntries(
      SHAPE.map((op) => [op, object({ op: string, ...args }, { attrs: record(number) })]),
    ),
  })),
  outputs: record(count),
});

const adamw = object({
  name: literal("adamw"),
  lr: number,
  betas: array(number),
  eps: number,
  weightDecay: number,
  decay: literal("matrices", "all"),
  clip: number,
  schedule: literal("constant", "linear", "cosine"),
  warmup: count,
  minRatio: number,
});
const sampling = object({
  maxNewTokens: count,
  temperature: number,
  topK: count,
  topP: number,
  samples: count,
  stop: array(count),
  ignoreEos: boolean,
  maxLag: count,
}, { keepSampledMask: boolean });
const call = (own: Readonly<Record<string, Shape>>, optional: Readonly<Record<string, Shape>> = {}) =>
  object({ id: string, kind: string, reads: ports, writes: ports, ...own }, { site: string, ...optional });

const GRAPH = object({
  version: literal(1),
  name: string,
  models: record(
    object(
      { head: literal("lm", "value", "reward"), checkpoint: string, optimizer: nullable(adamw) },
      {
        ema: object({ of: string, eta: number }),
        lora: object({ rank: count, alpha: number, targets: array(literal(...ADAPTABLE)) }, { from: string }),
      },
    ),
  ),
  source: object({
    kind: literal("prompts", "conversations", "pairs"),
    path: string,
    batch: count,
    fields: schema,
    shuffle: boolean,
    heldOut: number,
  }, { columns: record(string), chat: boolean, maxTokens: count, longRows: literal("skip", "truncate") }),
  fields: schema,
  calls: array(tagged("kind", {
    generate: call({ model: string, sampling }, { tools: array(string), maxTurns: count }),
    infer: call({ model: string }),
    train: call({ model: string, loss: expr, minibatches: count, epochs: count }, { stopWhen: string }),
    compute: call({ expr, states: ports }),
    score: call({}),
    select: call({
      keep: leaf('"bestAndWorst" or a whole number', (v) => v === "bestAndWorst" || Number.isInteger(v)),
    }),
    refill: call({ maxRounds: count }),
  })),
  states: record(number),
});

/** A plan of this version; `checkPlan` tells whether it fits a graph. */
export const PLAN = object({
  version: literal(1),
  graph: string,
  cluster: object({
    nodes: count,
    devicesPerNode: count,
    memoryBytes: count,
    links: array(object({ devices: count, microseconds: number, GBps: number })),
  }),
  assignments: record(object({
    mesh: object({ node: count, nodes: count, device: count, devices: count }),
    strategy: object({ dp: count, tp: count, pp: count }),
    microBatchTokens: count,
    zero: literal(0, 1),
    recompute: literal(...RECOMPUTE),
    offload: boolean,
  })),
});

/** The graph or plan as text, one line. */
export const toJson = (value: CallGraph | ExecutionPlan): string => JSON.stringify(value);

/** @throws TypeError that lists every difference from a graph of this version, and every violation of its specification */
export function graphFromJson(text: string): CallGraph {
  const graph = read<CallGraph>("graph", GRAPH, text);
  checkGraph(graph);
  return graph;
}

/** @throws TypeError that lists every difference from a plan of this version; `checkPlan` tells whether it fits a graph */
export const planFromJson = (text: string): ExecutionPlan => read<ExecutionPlan>("plan", PLAN, text);

function read<T>(what: string, shape: Shape, text: string): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new TypeError(`Cannot read a ${what}: its JSON is malformed (${(error as Error).message})`);
  }
  const version = (value as { version?: unknown } | null)?.version;
  if (version !== 1) {
    throw new TypeError(
      `Cannot read a ${what}: it has version ${
        JSON.stringify(version) ?? "none"
      } and this Baton reads 1, make it again`,
    );
  }
  const found: string[] = [];
  shape(value, what, found);
  if (found.length) throw new TypeError(`Cannot read a ${what}: ${found.join("; ")}`);
  return value as T;
}
