/** Model weights: first values, and a Hugging Face folder and back. Values are row-major, under Hugging Face's names and shapes. */
import type { Elements } from "../compiler/pieces.ts";
import type { Parameter } from "../ir/program.ts";
import {
  join,
  type JsonObject,
  parentOf,
  publishFolder,
  readTextOrNull,
  removeIfThere,
  statOrNull,
} from "./files.ts";
import { widened } from "./half.ts";
import { normals, streamKey } from "./random.ts";
import { checkTensors, Safetensors, writeSafetensors } from "./safetensors.ts";
import { type Pieces, Reused } from "./tensor_pieces.ts";

const size = (parameter: Parameter): number => parameter.shape.reduce((n, d) => n * d, 1);

/** How parameters that no checkpoint gives begin. */
export interface Initialization {
  readonly seed: number;
  /** Standard deviation of `normal` parameters: `initializer_range` of config.json. */
  readonly std: number;
}

/** First values of a parameter, row-major: a function of its name, shape and the seed alone. */
export function initialValues(parameter: Parameter, { seed, std }: Initialization): Float32Array {
  const out = new Float32Array(size(parameter));
  if (parameter.init === "ones") out.fill(1);
  else if (parameter.init === "fanIn") {
    // The variance of the uniform distribution within ±1/√inputs (He et al. 2015, as PyTorch begins linear layers).
    const inputs = parameter.shape[1]!;
    normals(out, streamKey(seed, "initialize", parameter.name), 1 / Math.sqrt(3 * inputs));
  } else if (parameter.init === "normal") {
    normals(out, streamKey(seed, "initialize", parameter.name), std);
  }
  return out;
}

/**
 * Takes a parameter's values from a row on, row-major as Hugging Face has them; those of a BF16 file as bf16 bits. Where they come in
 * rows, the array is used again for the next ones.
 */
export type WeightSink = (parameter: Parameter, values: Elements, row: number) => void | Promise<void>;

/** Gives every parameter its first values. */
export async function initializeWeights(
  parameters: readonly Parameter[],
  sink: (parameter: Parameter, values: Float32Array) => void | Promise<void>,
  initialization: Initialization,
): Promise<void> {
  for (const p of parameters) await sink(p, initialValues(p, initialization));
}

export interface LoadOptions {
  /** Parameters that the checkpoint may lack: a critic that starts from a language model allows its head. */
  readonly allowMissing?: readonly string[];
  /** Values of those. */
  readonly initialization?: Initialization;
  /** Whether parameters are given some rows at a time, cut at multiples of PANEL; as a whole otherwise. */
  readonly inRows?: boolean;
}

/** What a load did besides loading. */
export interface LoadReport {
  readonly initialized: readonly string[];
  readonly ignored: readonly string[];
}

/**
 * Buffers that old checkpoints carry and nobody needs. A language-model head that the model does not declare is one of
 * them: the model is tied, or has another head.
 */
const ignorable = (name: string): boolean =>
  name === "lm_head.weight" || name.endsWith(".rotary_emb.inv_freq");

/**
 * Streams a checkpoint into `sink`, in the order of `parameters`. Throws one error that lists every missing, unexpected and
 * misshapen tensor.
 */
export async function loadWeights(
  path: string,
  parameters: readonly Parameter[],
  sink: WeightSink,
  options: LoadOptions = {},
): Promise<LoadReport> {
  using file = await Safetensors.open(path);
  const mayMiss = new Set(options.allowMissing ?? []);
  const problems = checkTensors(file.tensors, parameters, {
    missing: (name) => mayMiss.has(name),
    unexpected: ignorable,
  });
  if (problems.length > 0) {
    throw new Error(
      `Cannot load ${path}: ${problems.join("; ")}. Does its config.json belong to these weights?`,
    );
  }
  await checkTiedHead(path, file, parameters);
  const initialized: string[] = [];
  for (const parameter of parameters) {
    if (!file.tensors.has(parameter.name)) {
      initialized.push(parameter.name);
      await sink(parameter, initialValues(parameter, options.initialization ?? { seed: 0, std: 0.02 }), 0);
      continue;
    }
    if (!options.inRows) {
      await sink(parameter, await file.readElements(parameter.name, parameter.shape), 0);
      continue;
    }
    for await (const { row, values } of file.rows(parameter.name, parameter.shape)) {
      await sink(parameter, values, row);
    }
  }
  const declared = new Set(parameters.map((p) => p.name));
  return { initialized, ignored: [...file.tensors.keys()].filter((name) => !declared.has(name)) };
}

/** A head in the file of a tied language model must be its embedding: leaving out another one changes the model. */
async function checkTiedHead(
  path: string,
  file: Safetensors,
  parameters: readonly Parameter[],
): Promise<void> {
  const head = "lm_head.weight", embedding = "model.embed_tokens.weight";
  const others = parameters.some(({ name }) => name === head || name === "score.weight");
  if (others || !file.tensors.has(head) || !file.tensors.has(embedding)) return;
  if (await equal(path, head, embedding)) return;
  throw new Error(
    `Cannot load ${path}: its ${head} differs from ${embedding} and config.json ties the two, set tie_word_embeddings to false`,
  );
}

/** Whether two tensors of a checkpoint have the same shape and values. */
async function equal(path: string, first: string, second: string): Promise<boolean> {
  // Opened twice, since a file has one array for all its rows.
  using one = await Safetensors.open(path), other = await Safetensors.open(path);
  using own = Reused.take(), their = Reused.take();
  const [a, b] = [one.tensors.get(first)!, other.tensors.get(second)!];
  if (a.shape.join() !== b.shape.join()) return false;
  const theirs = other.rows(second);
  for await (const { values } of one.rows(first)) {
    const next = await theirs.next();
    if (next.done) return false;
    const [x, y] = [widened(values, own), widened(next.value.values, their)];
    if (!x.every((value, i) => value === y[i])) return false;
  }
  return true;
}

/** Files that make a tokenizer, where present. */
const TOKENIZER_FILES = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "tokenizer.model",
  "vocab.json",
  "merges.txt",
] as const;

export interface SaveOptions {
  /** config.json as the model was loaded with. */
  readonly config: JsonObject;
  readonly head: "lm" | "value" | "reward";
  readonly parameters: readonly Parameter[];
  /** A parameter's values, row-major, whole or in pieces, read back from the device. */
  readonly source: (parameter: Parameter) => Float32Array | Promise<Float32Array> | Pieces;
  readonly dtype: "F32" | "BF16";
  /** The checkpoint that the model came from: its tokenizer and generation config go along. */
  readonly tokenizerFolder: string | null;
}

/** config.json of a saved model: what `transformers` needs to pick the class that fits the head and the dtype. */
export function savedConfig(
  { config, head, dtype }: Pick<SaveOptions, "config" | "head" | "dtype">,
): JsonObject {
  const type = dtype === "F32" ? "float32" : "bfloat16";
  const { dtype: newName, ...rest } = config;
  // transformers 5 writes `dtype` where 4 wrote `torch_dtype`; keep the spelling that the model came with.
  const typed = newName === undefined ? { ...rest, torch_dtype: type } : { ...rest, dtype: type };
  if (head === "lm") return typed;
  const architectures = Array.isArray(config["architectures"]) ? config["architectures"] : [];
  return {
    ...typed,
    architectures: architectures.map((name) => String(name).replace(/For\w+$/, "ForSequenceClassification")),
    num_labels: 1,
    id2label: { "0": "LABEL_0" },
    label2id: { LABEL_0: 0 },
  };
}

/**
 * Writes a folder that `transformers` loads. It is built beside its place and renamed, so a reader sees the whole model
 * or none; a model that was there before is replaced.
 */
export async function saveModel(folder: string, options: SaveOptions): Promise<void> {
  await Deno.mkdir(parentOf(folder), { recursive: true });
  const temporary = `${folder.replace(/\/+$/, "")}.tmp`;
  await removeIfThere(temporary);
  await Deno.mkdir(temporary);
  await writeModel(temporary, options);
  await publishFolder(temporary, folder);
}

/** Writes the files of a saved model into an existing folder. */
export async function writeModel(folder: string, options: SaveOptions): Promise<void> {
  const { parameters, source, dtype, tokenizerFolder } = options;
  const byName = new Map(parameters.map((p) => [p.name, p]));
  await writeSafetensors(
    join(folder, "model.safetensors"),
    parameters.map(({ name, shape }) => ({ name, shape, dtype })),
    (name) => source(byName.get(name)!),
  );
  const writeJson = (name: string, value: JsonObject) =>
    Deno.writeTextFile(join(folder, name), JSON.stringify(value, null, 2) + "\n");
  await writeJson("config.json", savedConfig(options));
  const generation = tokenizerFolder === null
    ? null
    : await readTextOrNull(join(tokenizerFolder, "generation_config.json"));
  if (generation !== null) await Deno.writeTextFile(join(folder, "generation_config.json"), generation);
  else {
    const ids = Object.entries(options.config).filter(([key]) => /^(bos|eos|pad)_token_id$/.test(key));
    await writeJson("generation_config.json", Object.fromEntries(ids.filter(([, id]) => id !== null)));
  }
  if (tokenizerFolder === null) return;
  for (const name of TOKENIZER_FILES) {
    const path = join(tokenizerFolder, name);
    if (await statOrNull(path) !== null) await Deno.writeFile(join(folder, name), await Deno.readFile(path));
  }
}
