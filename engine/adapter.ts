/**
 * Adapters as files in the format of PEFT: adapter_config.json and adapter_model.safetensors. Format:
 * https://huggingface.co/docs/peft/developer_guides/checkpoint.
 */
import { pairOf } from "../compiler/models/lora.ts";
import { SCORE } from "../compiler/models/parameters.ts";
import type { Head, Lora } from "../ir/graph.ts";
import type { Parameter } from "../ir/program.ts";
import { loadTensors } from "./checkpoint.ts";
import { join, readJson } from "./files.ts";
import { writeSafetensors } from "./safetensors.ts";
import { collected, type Pieces, piecesOf, Reused } from "./tensor_pieces.ts";

const PREFIX = "base_model.model.";
const CONFIG = "adapter_config.json", WEIGHTS = "adapter_model.safetensors";

type Source = (p: Parameter) => Float32Array | Promise<Float32Array> | Pieces;

/** A model with an adapter, as far as files need it. */
export interface Adapted {
  readonly lora: Lora;
  readonly head: Head;
  /** What the script names: where PEFT finds the weights that the adapter belongs to. */
  readonly checkpoint: string;
  /** All of the model's; those that are not frozen are the adapter's. */
  readonly parameters: readonly Parameter[];
}

const trained = (all: readonly Parameter[]): readonly Parameter[] => all.filter((p) => !p.frozen);

/** Writes an adapter into an existing folder; `source` gives a parameter's values row-major, whole or in pieces. */
export async function writeAdapter(
  folder: string,
  { lora, head, checkpoint, parameters }: Adapted,
  source: Source,
): Promise<void> {
  const config = {
    peft_type: "LORA",
    task_type: head === "lm" ? "CAUSAL_LM" : "SEQ_CLS",
    base_model_name_or_path: checkpoint,
    r: lora.rank,
    lora_alpha: lora.alpha,
    lora_dropout: 0,
    target_modules: lora.targets,
    modules_to_save: head === "lm" ? null : ["score"],
    bias: "none",
    fan_in_fan_out: false,
    init_lora_weights: true,
    inference_mode: true,
  };
  await Deno.mkdir(folder, { recursive: true });
  await Deno.writeTextFile(join(folder, CONFIG), JSON.stringify(config, null, 2) + "\n");
  const all = trained(parameters), byName = new Map(all.map((p) => [PREFIX + p.name, p]));
  await writeSafetensors(
    join(folder, WEIGHTS),
    all.map(({ name, shape }) => ({ name: PREFIX + name, shape, dtype: "F32" })),
    (name) => source(byName.get(name)!),
  );
}

/**
 * Reads an adapter that {@link writeAdapter} or PEFT wrote, some rows of a parameter at a time.
 *
 * @throws Error when it is not the kind of adapter that the model has, or lacks a tensor
 */
export async function readAdapter(
  folder: string,
  { lora, head, parameters }: Omit<Adapted, "checkpoint">,
  sink: (p: Parameter, values: Float32Array, row: number) => unknown,
): Promise<void> {
  const config = await readJson(join(folder, CONFIG), `the adapter ${folder}`);
  const targets = config["target_modules"];
  const wanted: Record<string, unknown> = {
    peft_type: "LORA",
    r: lora.rank,
    lora_alpha: lora.alpha,
    bias: "none",
    use_dora: false,
    use_rslora: false,
    target_modules: lora.targets.toSorted().join(" "),
  };
  const found: Record<string, unknown> = {
    ...{ bias: "none", use_dora: false, use_rslora: false },
    ...config,
    target_modules: Array.isArray(targets) ? targets.toSorted().join(" ") : targets,
  };
  const differences = Object.keys(wanted).filter((key) => found[key] !== wanted[key])
    .map((key) =>
      `${key} is ${JSON.stringify(found[key])} and the model's is ${JSON.stringify(wanted[key])}`
    );
  if (differences.length > 0) {
    throw new Error(`Cannot load the adapter ${folder}: ${differences.join("; ")}, give lora() the same`);
  }
  const all = trained(parameters).filter((p) => head !== "lm" || p.name !== SCORE);
  const named = all.map((p) => ({ ...p, name: PREFIX + p.name, own: p }));
  await loadTensors(
    join(folder, WEIGHTS),
    named,
    async ({ own }, values, row) => void await sink(own, values, row),
  );
}

/** Gives the parameters of the checkpoint with the adapter added to them, W + (alpha / rank) · B·A, row-major in whole rows. */
export function merged(
  { lora, parameters }: Pick<Adapted, "lora" | "parameters">,
  source: Source,
): (p: Parameter) => Pieces {
  const byName = new Map(parameters.map((p) => [p.name, p]));
  return async function* (p) {
    using sum = Reused.take();
    const pair = pairOf(p.name.replace(/\.weight$/, "")), a = byName.get(pair.a), b = byName.get(pair.b);
    // Before the first piece: a source may have one array for all that it gives.
    const low = a && b && { a: await whole(a, source), b: await whole(b, source) };
    let row = 0;
    for await (const piece of piecesOf(source(p))) {
      const w = piece as Float32Array;
      if (!low) {
        yield w;
        continue;
      }
      const out = sum.f32(w.length);
      addProduct(w, low, lora, row, out);
      row += w.length / p.shape[1]!;
      yield out;
    }
  };
}

const whole = (p: Parameter, source: Source): Promise<Float32Array> =>
  collected(source(p), p.shape.reduce((n, d) => n * d, 1));

/** Whole rows of W, the first of which is `row`, with the product added. */
function addProduct(
  w: Float32Array,
  { a, b }: { readonly a: Float32Array; readonly b: Float32Array },
  { rank, alpha }: Lora,
  row: number,
  out: Float32Array,
): void {
  const inputs = a.length / rank, rows = w.length / inputs, scale = alpha / rank;
  const sums = new Float64Array(inputs);
  for (let n = 0; n < rows; n++) {
    sums.fill(0);
    for (let r = 0; r < rank; r++) {
      const weight = scale * b[(row + n) * rank + r]!, from = r * inputs;
      if (weight !== 0) { for (let k = 0; k < inputs; k++) sums[k]! += weight * a[from + k]!; }
    }
    for (let k = 0; k < inputs; k++) out[n * inputs + k] = w[n * inputs + k]! + sums[k]!;
  }
}

/** What is left of a model's parameters when its adapter is merged: those of the checkpoint. */
export const mergedParameters = (parameters: readonly Parameter[]): readonly Parameter[] =>
  parameters.filter((p) => !/\.lora_[AB]\.weight$/.test(p.name));
