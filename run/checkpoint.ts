/** What a checkpoint holds: every trained model's fp32 parameters and moments under Hugging Face names, and the counters. */
import type { Engine } from "../engine/engine.ts";
import { beginCheckpoint, loadTensors, readState, saveTensors, writeState } from "../engine/checkpoint.ts";
import type { Cursor } from "../engine/data.ts";
import { fromStored, toStored } from "../engine/weights.ts";

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

/** Writes beside and renames; returns the checkpoint's folder. */
export async function saveCheckpoint(
  engine: Engine,
  folder: string,
  state: Omit<RunState, "version" | "states" | "models">,
): Promise<string> {
  const checkpoint = await beginCheckpoint(folder, state.step),
    models: Record<string, { version: number; updates: number }> = {};
  for (const [name, replica] of engine.replicas) {
    models[name] = { version: replica.version, updates: replica.updates };
    if (!replica.trained) continue;
    for (const what of ["param", "m", "v"] as const) {
      await saveTensors(
        `${checkpoint.path}/${name}.${what}.safetensors`,
        replica.parameters.map((p) => ({
          name: p.name,
          shape: p.shape,
          read: () => fromStored(p, replica.read(p, what)),
        })),
      );
    }
  }
  const full: RunState = { version: 1, ...state, states: Object.fromEntries(engine.states), models };
  await writeState(checkpoint.path, full);
  return await checkpoint.commit();
}

/** What a checkpoint says of itself: to be checked before {@link loadCheckpoint} overwrites anything. */
export const readRunState = (path: string): Promise<RunState> => readState<RunState>(path);

/** Puts parameters, moments and counters back, bit for bit. */
export async function loadCheckpoint(engine: Engine, path: string, state: RunState): Promise<void> {
  for (const [name, replica] of engine.replicas) {
    const saved = state.models[name];
    if (!saved) {
      throw new Error(
        `Cannot resume from ${path}: it has no model "${name}", resume with the script that began the run`,
      );
    }
    replica.version = saved.version;
    replica.updates = saved.updates;
    if (!replica.trained) continue;
    for (const what of ["param", "m", "v"] as const) {
      await loadTensors(`${path}/${name}.${what}.safetensors`, replica.parameters, (p, data) => {
        const stored = toStored(p, data);
        if (what === "param") replica.write(p, stored);
        else replica.writeMoment(p, what, stored);
      });
    }
  }
  for (const [name, value] of Object.entries(state.states)) engine.states.set(name, value);
}
