/**
 * Checkpoint folders: written beside, forced to disk and renamed, so that a folder with a final name is always whole.
 * What goes into one is the business of the caller.
 */
import {
  baseName,
  join,
  publishFolder,
  readJson,
  removeIfThere,
  replaceFile,
  statOrNull,
  writeAll,
} from "./files.ts";
import { widened } from "./half.ts";
import { checkTensors, Safetensors, writeSafetensors } from "./safetensors.ts";
import { type Pieces, Reused } from "./tensor_pieces.ts";

const STATE = "state.json";
const LATEST = "latest";
const VERSION = 1;

const nameOf = (step: number): string => `step-${String(step).padStart(6, "0")}`;

/** A checkpoint that is being written. */
export interface OpenCheckpoint {
  /** Folder to write into; gone after `commit`. */
  readonly path: string;
  /** Publishes the folder and returns its final path. State must have been written. */
  commit(): Promise<string>;
  /** Removes what was written of it: on a full disk the space is needed. Throws nothing. */
  discard(): Promise<void>;
}

/** Starts the checkpoint of a step in `folder`. What an interrupted write of the same step left there is removed. */
export async function beginCheckpoint(folder: string, step: number): Promise<OpenCheckpoint> {
  const path = join(folder, `${nameOf(step)}.tmp`), final = join(folder, nameOf(step));
  await removeIfThere(path);
  await Deno.mkdir(path, { recursive: true });
  return {
    path,
    async commit() {
      if (await statOrNull(join(path, STATE)) === null) {
        throw new Error(`Cannot publish checkpoint ${path}: no state was written`);
      }
      await publishFolder(path, final);
      await replaceFile(join(folder, LATEST), `${baseName(final)}\n`);
      return final;
    },
    discard: () => removeIfThere(path).catch(() => {}),
  };
}

/** A published checkpoint. */
export interface CheckpointEntry {
  readonly step: number;
  readonly path: string;
}

/** Published checkpoints of a folder, oldest first; unfinished ones are not among them. */
export async function listCheckpoints(folder: string): Promise<readonly CheckpointEntry[]> {
  if (await statOrNull(folder) === null) return [];
  const found: CheckpointEntry[] = [];
  for await (const entry of Deno.readDir(folder)) {
    const step = /^step-(\d+)$/.exec(entry.name)?.[1];
    if (step === undefined || !entry.isDirectory) continue;
    const path = join(folder, entry.name);
    if (await statOrNull(join(path, STATE)) !== null) found.push({ step: Number(step), path });
  }
  return found.sort((a, b) => a.step - b.step);
}

/**
 * The newest published checkpoint, or null. The list decides, not the `latest` pointer: a crash between publishing and
 * pointing leaves the pointer one behind.
 */
export async function latestCheckpoint(folder: string): Promise<CheckpointEntry | null> {
  return (await listCheckpoints(folder)).at(-1) ?? null;
}

/** Removes all but the newest `count` checkpoints, and what interrupted writes left. */
export async function keepLast(folder: string, count: number): Promise<void> {
  if (count < 1) throw new RangeError(`Cannot keep the last ${count} checkpoints: at least one must stay`);
  for (const { path } of (await listCheckpoints(folder)).slice(0, -count)) await removeIfThere(path);
  for await (const entry of Deno.readDir(folder)) {
    if (/^step-\d+\.(tmp|old)$/.test(entry.name)) await removeIfThere(join(folder, entry.name));
  }
}

/** A named tensor to save, row-major, whole or in pieces; `read` is asked when it is its turn. */
export interface TensorSource {
  readonly name: string;
  readonly shape: readonly number[];
  readonly read: () => Float32Array | Promise<Float32Array> | Pieces;
}

/** Writes fp32 tensors, one after the other. */
export async function saveTensors(path: string, tensors: readonly TensorSource[]): Promise<void> {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const headers = tensors.map(({ name, shape }) => ({ name, shape, dtype: "F32" as const }));
  await writeSafetensors(path, headers, (name) => byName.get(name)!.read());
}

/**
 * Reads what {@link saveTensors} wrote, some rows of a tensor at a time from `row` on, in an array that is used again for the next ones.
 * Throws one error that lists missing, unexpected and misshapen tensors.
 */
export async function loadTensors<T extends { readonly name: string; readonly shape: readonly number[] }>(
  path: string,
  expected: readonly T[],
  sink: (tensor: T, values: Float32Array, row: number) => void | Promise<void>,
): Promise<void> {
  using file = await Safetensors.open(path);
  const problems = checkTensors(file.tensors, expected);
  if (problems.length > 0) throw new Error(`Cannot load ${path}: ${problems.join("; ")}`);
  using wide = Reused.take();
  for (const tensor of expected) {
    for await (const { row, values } of file.rows(tensor.name)) {
      await sink(tensor, widened(values, wide), row);
    }
  }
}

/** Writes the state of a checkpoint, last of its files. Throws on numbers that JSON would turn into null. */
export async function writeState(checkpoint: string, state: { readonly version: number }): Promise<void> {
  const text = JSON.stringify(state, (key, value) => {
    if (typeof value === "number" && !Number.isFinite(value)) {
      throw new RangeError(`Cannot write ${join(checkpoint, STATE)}: ${key} is ${value}`);
    }
    return value;
  }, 2);
  using file = await Deno.open(join(checkpoint, STATE), { write: true, create: true, truncate: true });
  await writeAll(file, new TextEncoder().encode(text + "\n"));
  await file.sync();
}

/** State as it was written. Throws when it is of another version of the format. */
export async function readState<T extends { readonly version: number }>(checkpoint: string): Promise<T> {
  const path = join(checkpoint, STATE);
  const state = await readJson(path, `checkpoint ${checkpoint}`);
  if (state["version"] !== VERSION) {
    throw new Error(
      `Cannot read ${path}: it has version ${
        state["version"]
      }, this Baton reads version ${VERSION}, use the Baton that wrote it`,
    );
  }
  return state as unknown as T;
}

/** What run.json says about the run that owns an output folder. */
export interface RunIdentity {
  readonly name: string;
  /** Digest of the call graph. */
  readonly graph: string;
  readonly seed: number;
}

/**
 * Claims an output folder for a run. A new run needs an absent or empty folder; `resume` needs one of the same graph and
 * seed. Throws and says which it is otherwise.
 */
export async function claimRunFolder(
  folder: string,
  run: RunIdentity,
  { resume = false }: { readonly resume?: boolean } = {},
): Promise<void> {
  const path = join(folder, "run.json");
  const owned = await statOrNull(path) !== null;
  if (resume) {
    if (!owned) {
      throw new Error(`Cannot resume in ${folder}: it has no run.json, start the run without --resume`);
    }
    const old = await readJson(path, "the run to resume");
    const differences = (["graph", "seed"] as const).filter((key) => old[key] !== run[key]);
    if (differences.length > 0) {
      const what = differences.map((key) => `its ${key} is ${old[key]} and this run's is ${run[key]}`).join(
        ", ",
      );
      throw new Error(
        `Cannot resume in ${folder}: ${what}, resume with the script and options that began it`,
      );
    }
    return;
  }
  if (owned) {
    const old = await readJson(path, "the run that was there before");
    throw new Error(
      `Cannot start a run in ${folder}: run "${
        old["name"]
      }" is there, continue it with --resume or choose another folder`,
    );
  }
  if (await statOrNull(folder) !== null) {
    for await (const entry of Deno.readDir(folder)) {
      throw new Error(`Cannot start a run in ${folder}: it holds ${entry.name}, choose an empty folder`);
    }
  }
  try {
    await Deno.mkdir(folder, { recursive: true });
    await replaceFile(path, JSON.stringify({ version: VERSION, ...run }, null, 2) + "\n");
  } catch (cause) {
    const why = (cause as Error).message;
    throw new Error(`Cannot start a run in ${folder}: it cannot be written (${why}), choose another folder`, {
      cause,
    });
  }
}
