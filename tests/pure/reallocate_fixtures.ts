/** Random layouts of small models, and memory in which moves are carried out. */
import fc from "fast-check";
import { type ModelConfig, parseConfig } from "../../compiler/models/config.ts";
import { type Layout, SINGLE } from "../../compiler/models/storage.ts";
import { layoutViolations, type Shard, shardsOf } from "../../compiler/layout.ts";
import { parameterBytes } from "../../compiler/models/transformer.ts";
import { writeLocal } from "../../compiler/pieces.ts";
import type { Holder, Move } from "../../compiler/reallocate.ts";
import type { Head } from "../../ir/graph.ts";
import { devicesOf, rankOf } from "../../ir/mesh.ts";
import type { DeviceMesh, ParallelStrategy } from "../../ir/plan.ts";

/** The devices of a mesh with what each holds under a strategy. */
export function holdersOf(
  model: { readonly config: ModelConfig; readonly head: Head },
  mesh: DeviceMesh,
  strategy: ParallelStrategy,
  cluster: { readonly devicesPerNode: number },
): Holder[] {
  const devices = devicesOf(mesh, cluster), { dp } = strategy;
  return shardsOf(model.config, model.head, strategy).flatMap((ranks, stage) =>
    Array.from(
      { length: dp },
      (_, dp) => ranks.map((shard, tp) => ({ device: devices[rankOf(strategy, { stage, dp, tp })]!, shard })),
    ).flat()
  );
}

/** A llama (qwen3 with norms of heads) as a config.json says it. */
export const modelOf = (m: {
  readonly hidden: number;
  readonly layers: number;
  readonly kvHeads: number;
  readonly group: number;
  readonly headDim: number;
  readonly intermediate: number;
  readonly vocab: number;
  readonly tied: boolean;
  readonly biases: boolean;
  readonly headNorms: boolean;
}): ModelConfig =>
  parseConfig({
    model_type: m.headNorms ? "qwen3" : "llama",
    hidden_size: m.hidden,
    num_hidden_layers: m.layers,
    num_attention_heads: m.kvHeads * m.group,
    num_key_value_heads: m.kvHeads,
    head_dim: m.headDim,
    intermediate_size: m.intermediate,
    vocab_size: m.vocab,
    tie_word_embeddings: m.tied,
    attention_bias: m.biases,
    mlp_bias: m.biases,
  }, "config.json");

/** One of some values, all equally likely. */
const of = <T>(...values: readonly T[]) => fc.constantFrom(...values);
const models = fc.record({
  config: fc.record({
    hidden: of(1, 7, 16, 24),
    layers: of(1, 2, 3, 4, 5),
    kvHeads: of(1, 2, 3, 4),
    group: of(1, 2, 4, 8),
    headDim: of(2, 6, 8, 16),
    // Fewer panels than ranks, panels that do not divide, a last panel that is not full.
    intermediate: of(16, 23, 48, 70),
    vocab: of(16, 17, 60, 100),
    tied: fc.boolean(),
    biases: fc.boolean(),
    headNorms: fc.boolean(),
    layout: of<Layout>("panels", "panels", "rows"),
  }).map(({ layout, ...m }) => ({ ...modelOf(m), storage: { ...SINGLE, layout } })),
  head: of<Head>("lm", "lm", "value", "reward"),
});

/** Meshes of some size as a plan allows them: devices of one node, or whole nodes. */
function meshes(nodes: number, perNode: number, size: number): DeviceMesh[] {
  const count = (n: number) => Array.from({ length: Math.max(0, n) }, (_, i) => i);
  const inNode = count(nodes).flatMap((node) =>
    count(perNode - size + 1).map((device) => ({ node, nodes: 1, device, devices: size }))
  );
  if (size % perNode !== 0 || size === perNode) return inNode;
  const whole = size / perNode;
  return count(nodes - whole + 1).map((node) => ({ node, nodes: whole, device: 0, devices: perNode }));
}

function strategies(config: ModelConfig, devices: number): ParallelStrategy[] {
  const divisors = (n: number) => Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);
  return divisors(devices).flatMap((tp) =>
    divisors(devices / tp).map((pp) => ({ dp: devices / tp / pp, tp, pp }))
  ).filter((s) => layoutViolations(config, s).length === 0);
}

const share = fc.noBias(fc.integer({ min: 0, max: 999 })).map((n) => n / 1000);
const side = fc.record({ size: share, mesh: share, strategy: share });

/** Two layouts of one model, anywhere in a cluster of up to 16 devices; large meshes more often than small ones. */
export const pairs = fc.record({
  model: models,
  nodes: of(1, 2, 2, 3, 4),
  devicesPerNode: of(1, 2, 3, 4, 4),
  from: side,
  to: side,
}).map(({ model, nodes, devicesPerNode, from, to }) => {
  const cluster = { devicesPerNode };
  const at = <T>(list: readonly T[], share: number) => list[Math.floor(share * list.length)]!;
  const sizes = Array.from({ length: 16 }, (_, i) => i + 1)
    .filter((size) => meshes(nodes, devicesPerNode, size).length > 0);
  const side = (shares: typeof from) => {
    const mesh = at(meshes(nodes, devicesPerNode, at(sizes, Math.sqrt(shares.size))), shares.mesh);
    const strategy = at(strategies(model.config, mesh.nodes * mesh.devices), shares.strategy);
    return { mesh, strategy, holders: holdersOf(model, mesh, strategy, cluster) };
  };
  return { model, cluster, from: side(from), to: side(to) };
});
/** What {@link pairs} makes. */
export type Pair = typeof pairs extends fc.Arbitrary<infer T> ? T : never;

/** Where a layout's devices keep their params segments. */
export type Memory = Map<number, Float32Array>;

export const emptyMemory = (holders: readonly Holder[], value: number): Memory =>
  new Map(holders.map(({ device, shard }) => [device, filled(shard, value)]));

const filled = (shard: Shard, value: number) =>
  new Float32Array(parameterBytes(shard.parameters) / 4).fill(value);

/** A different whole number for every element of the model, counted from 1, by parameter. */
export function wholeModel(holders: readonly Holder[]): Map<string, Float32Array> {
  const whole = new Map<string, Float32Array>();
  let next = 1;
  for (const { shard } of holders) {
    for (const { name, global } of shard.parameters) {
      if (whole.has(name)) continue;
      whole.set(name, Float32Array.from({ length: global.reduce((n, d) => n * d, 1) }, () => next++));
    }
  }
  return whole;
}

/** Every rank's pieces in their places; `value` where no piece is, in padding and between parameters. */
export function loaded(holders: readonly Holder[], whole: Map<string, Float32Array>, value: number): Memory {
  const memory = emptyMemory(holders, value);
  for (const { device, shard } of holders) {
    for (const p of shard.parameters) {
      const start = p.offset / 4;
      writeLocal(p, whole.get(p.name)!, memory.get(device)!.subarray(start, start + p.elements));
    }
  }
  return memory;
}

/** Visits the elements that a move copies: positions of floats in the two segments. */
export function eachElement(move: Move, visit: (source: number, target: number) => void): void {
  for (let i = 0; i < move.count; i++) {
    const source = (move.source + i * move.sourceStride) / 4,
      target = (move.target + i * move.targetStride) / 4;
    for (let k = 0; k < move.bytes / 4; k++) visit(source + k, target + k);
  }
}
