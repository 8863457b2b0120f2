/**
 * What a checkpoint holds: every trained model's fp32 parameters and moments under Hugging Face names, and the counters. Of a model with
 * an adapter it holds the adapter, as PEFT reads it.
 */
import { readAdapter, writeAdapter } from "../engine/adapter.ts";
import type { Engine } from "../engine/engine.ts";
import type { Part, Replica } from "../engine/replica.ts";
import type { ModelSpec } from "../ir/graph.ts";
import type { Parameter } from "../ir/program.ts";
import { beginCheckpoint, loadTensors, readState, saveTensors, writeState } from "../engine/checkpoint.ts";
import type { Cursor } from "../engine/data.ts";

export interface RunState {
  readonly version: 1;
  /** Steps completed. */
  readonly step: number;
  readonly seed: number;
  readonly graph: string;
  /** Digest of the training data's file: a cursor means nothing in another one. */
  readonly data: string;
  readonly cursor: Cursor;
  readonly states: Readonly<Record<string, number>>;
  readonly models: Readonly<Record<string, { readonly version: number; readonly updates: number }>>;
}

/** What changes: parameters and moments of what is trained, parameters of what follows it. */
const partsOf = ({ optimizer, ema }: ModelSpec): readonly Part[] =>
  optimizer ? ["param", "m", "v"] : ema ? ["param"] : [];

/** Replicas that keep older weights than their home's: all of a model are as old as one another. */
const lagging = (engine: Engine): Replica[] =>
  [...engine.replicas.values()].filter(({ spec }) => spec.lag > 0);
/** Replicas are numbered by the plan; checkpoints do not depend on it. */
const lagName = ({ spec }: Replica): string => `${spec.model}.lag`;

type Place = Omit<RunState, "version" | "states" | "models">;

/** Writes beside and renames; returns the checkpoint's folder. What cannot be written as a whole is removed. */
export async function saveCheckpoint(engine: Engine, folder: string, state: Place): Promise<string> {
  const checkpoint = await beginCheckpoint(folder, state.step);
  try {
    await fill(engine, checkpoint.path, state);
    return await checkpoint.commit();
  } catch (error) {
    await checkpoint.discard();
    throw error;
  }
}

async function fill(engine: Engine, path: string, state: Place): Promise<void> {
  const models: Record<string, { version: number; updates: number }> = {};
  const save = (name: string, what: Part, parameters: readonly Parameter[], replica: Replica) => {
    const read = replica.reader(what);
    return saveTensors(
      `${path}/${name}.${what}.safetensors`,
      parameters.map((p) => ({ name: p.name, shape: p.shape, read: () => read(p) })),
    );
  };
  for (const [name, replica] of engine.homes) {
    models[name] = { version: replica.version ?? 0, updates: replica.updates };
    for (const what of partsOf(engine.models[name]!.spec)) {
      const { spec: { lora, head, checkpoint: base }, parameters } = engine.models[name]!;
      if (lora && what === "param") {
        await writeAdapter(
          `${path}/${name}`,
          { lora, head, checkpoint: base, parameters },
          replica.reader(),
        );
        continue;
      }
      await save(name, what, parameters.filter((p) => !p.frozen), replica);
    }
  }
  // Weights of generation that lags are older than their home's, and the next step samples from them.
  for (const replica of lagging(engine)) {
    const name = lagName(replica);
    if (models[name]) continue;
    models[name] = { version: replica.version ?? 0, updates: replica.updates };
    const { parameters } = engine.models[replica.spec.model]!;
    await save(name, "param", parameters.filter((p) => !p.frozen), replica);
  }
  const full: RunState = { version: 1, ...state, states: Object.fromEntries(engine.states), models };
  await writeState(path, full);
}

/** What a checkpoint says of itself: to be checked before {@link loadCheckpoint} overwrites anything. */
export const readRunState = (path: string): Promise<RunState> => readState<RunState>(path);

/** Puts parameters, moments and counters back, bit for bit. */
export async function loadCheckpoint(engine: Engine, path: string, state: RunState): Promise<void> {
  for (const [name, replica] of engine.homes) {
    const saved = state.models[name], { spec, parameters } = engine.models[name]!;
    if (!saved) {
      throw new Error(
        `Cannot resume from ${path}: it has no model "${name}", resume with the script that began the run`,
      );
    }
    for (const what of partsOf(spec)) {
      const put = (p: Parameter, values: Float32Array, row: number) =>
        replica.write(p.name, values, what, row);
      const { lora, head } = spec;
      if (lora && what === "param") await readAdapter(`${path}/${name}`, { lora, head, parameters }, put);
      else {
        const changed = parameters.filter((p) => !p.frozen);
        await loadTensors(`${path}/${name}.${what}.safetensors`, changed, put);
      }
    }
    replica.version = saved.version;
    replica.updates = saved.updates;
  }
  // Under a plan without a copy of its own for generation that lags there is none to read: it begins with the newest weights.
  for (const replica of lagging(engine)) {
    const name = lagName(replica),
      saved = state.models[name],
      { parameters } = engine.models[replica.spec.model]!;
    if (!saved) await engine.renew(replica.name);
    else {
      await loadTensors(
        `${path}/${name}.param.safetensors`,
        parameters.filter((p) => !p.frozen),
        (p, values, row) => replica.write(p.name, values, "param", row),
      );
      replica.version = saved.version;
    }
  }
  for (const [name, value] of Object.entries(state.states)) engine.states.set(name, value);
}
