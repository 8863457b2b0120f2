/** One language model on a device with programs of its own, outside any workflow. */
import { wholeShard } from "../compiler/layout.ts";
import { type Precision, PRECISIONS, storedIn } from "../compiler/models/storage.ts";
import { parameterBytes, parameters } from "../compiler/models/transformer.ts";
import type { Programs } from "../compiler/programs.ts";
import { arenaOf } from "../compiler/uses.ts";
import { oneOf, refuse } from "../dsl/options.ts";
import { BoundCall } from "../engine/bound.ts";
import { Devices } from "../engine/devices.ts";
import { Engine } from "../engine/engine.ts";
import { baseName } from "../engine/files.ts";
import type { ModelFunctionCall } from "../ir/graph.ts";
import type { Maxima, Segment } from "../ir/op.ts";
import type { ReplicaSpec } from "../ir/plan.ts";
import type { Program } from "../ir/program.ts";
import type { MemoryRow } from "../planner/memory.ts";
import { memory } from "./available.ts";
import { onGpus } from "./machine.ts";
import { refuseTooLarge } from "./memory.ts";
import { defaultThreads } from "./options.ts";
import { engineModel, type LoadedModel, loadModel } from "./models.ts";
import { widest } from "./scratch.ts";

export const NONE: Maxima = { one: 1, tokens: 0, actions: 0, sequences: 0, groups: 0, pairs: 0, shard: 0 };

const NO_PROGRAMS: Programs = { generate: {}, infer: {}, train: {}, update: {}, compute: {} };
const REPLICA: ReplicaSpec = {
  model: "model",
  mesh: { node: 0, nodes: 1, device: 0, devices: 1 },
  strategy: { dp: 1, tp: 1, pp: 1 },
  zero: 0,
  home: true,
  residence: "device",
  lag: 0,
};

/** How a model is loaded. */
export interface ModelOptions {
  /** CPU threads; all cores by default. */
  readonly threads?: number;
  /** What it is stored in; fp32 by default. */
  readonly precision?: Precision;
}

/** What one call of a model runs. */
export interface SoleCall {
  readonly call: ModelFunctionCall;
  readonly programs: Partial<Programs>;
  /** All of them, for the byte table. */
  readonly compiled: readonly Program[];
}

/** A model on a device with one call bound to it. `held` disposes of all, and of what is added to it. */
export async function openModel(
  folder: string,
  { threads = defaultThreads(), precision = "fp32" }: ModelOptions,
  sole: (m: LoadedModel) => SoleCall,
) {
  refuse(`load ${folder}`, [oneOf("precision", precision, PRECISIONS)]);
  const spec = { head: "lm", checkpoint: folder, optimizer: null } as const;
  const model = await loadModel(
    baseName(folder),
    spec,
    storedIn(precision, "fp32", onGpus({}) ? "rows" : "panels"),
  );
  const { call, programs, compiled } = sole(model);
  using held = new DisposableStack();
  const devices = held.use(Devices.open({ count: 1, threads }));
  refuseTooLarge(
    `load ${folder}`,
    rowsOf(model, compiled, devices.all[0]!.scratchBytes + widest(compiled)),
    memory().availableBytes,
    "use shorter sequences or a smaller model",
  );
  const engine = await Engine.create({
    devices,
    cluster: { devicesPerNode: 1 },
    models: { model: engineModel(model, most(compiled, "constants") / (4 * model.config.headDim)) },
    states: {},
    schedule: {
      replicas: { "model@0": REPLICA },
      prologue: [{
        op: "load",
        replica: "model@0",
        model: "model",
        devices: [0],
        after: [],
        afterPrevious: [],
      }],
    },
    memory: { calls: new Map([[0, new Map([[arenaOf(call.id), most(compiled, "arena")]])]]) },
  });
  held.adopt(engine, (e) => e.dispose());
  const placement = { devices: [0], strategy: REPLICA.strategy, replica: engine.home("model") };
  const bound = new BoundCall(engine, call, { ...NO_PROGRAMS, ...programs }, placement);
  held.adopt(bound, (b) => b.dispose());
  return { model, bound, held: held.move() };
}

/** The whole of a language model, for one device. */
export const shardOf = (m: LoadedModel) => wholeShard(m.config, "lm");

export const most = (programs: readonly Program[], segment: Segment): number =>
  Math.max(...programs.map((p) => p.segmentBytes[segment]));

/** Programs share the model, the arena, cache and state; inputs and outputs are each one's own. */
function rowsOf(model: LoadedModel, programs: readonly Program[], scratch: number): MemoryRow[] {
  const row = (name: string, bytes: number): MemoryRow => ({ name, bytes, where: "device" });
  const own = programs.reduce((n, p) => n + p.segmentBytes.inputs + p.segmentBytes.outputs, 0);
  return [
    row("params", parameterBytes(parameters(model.config, "lm"))),
    ...(["constants", "arena", "kv", "state"] as const).map((s) => row(s, most(programs, s))),
    row("inputs and outputs", own),
    row("scratch", scratch),
  ];
}

/** @throws RangeError for an id that the model has no embedding of */
export function checkIds(m: LoadedModel, ids: Int32Array): void {
  const bad = ids.find((id) => id < 0 || id >= m.config.vocab);
  if (bad !== undefined) {
    throw new RangeError(
      `Cannot use token id ${bad}: the model's vocabulary has ids 0 to ${
        m.config.vocab - 1
      }, give ids of that range`,
    );
  }
}
