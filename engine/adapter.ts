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

const PREFIX = "base_model.model.";
const CONFIG = "adapter_config.json", WEIGHTS = "adapter_model.safetensors";

type Source = (p: Parameter) => Float32Array | Promise<Float32Array>;

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

/** Writes an adapter into an existing folder; `source` gives a parameter's values row-major. */
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
 * Reads an adapter that {@link writeAdapter} or PEFT wrote.
 *
 * @throws Error when it is not the kind of adapter that the model has, or lacks a tensor
 */
export async function readAdapter(
  folder: string,
  { lora, head, parameters }: Omit<Adapted, "checkpoint">,
  sink: (p: Parameter, values: Float32Array) => unknown,
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
  await loadTensors(join(folder, WEIGHTS), named, async ({ own }, values) => void await sink(own, values));
}

/** Gives the parameters of the checkpoint with the adapter added to them, W + (alpha / rank) · B·A, row-major. */
export function merged({ lora, parameters }: Pick<Adapted, "lora" | "parameters">, source: Source): Source {
  const byName = new Map(parameters.map((p) => [p.name, p]));
  return async (p) => {
    const values = await source(p), pair = pairOf(p.name.replace(/\.weight$/, ""));
    const a = byName.get(pair.a), b = byName.get(pair.b);
    if (!a || !b) return values;
    return addProduct(values, await source(a), await source(b), lora);
  };
}

function addProduct(w: Float32Array, a: Float32Array, b: Float32Array, { rank, alpha }: Lora): Float32Array {
  const inputs = a.length / rank, outputs = b.length / rank, scale = alpha / rank;
  const row = new Float64Array(inputs), out = new Float32Array(w.length);
  for (let n = 0; n < outputs; n++) {
    row.fill(0);
    for (let r = 0; r < rank; r++) {
      const weight = scale * b[n * rank + r]!, from = r * inputs;
      if (weight !== 0) { for (let k = 0; k < inputs; k++) row[k]! += weight * a[from + k]!; }
    }
    for (let k = 0; k < inputs; k++) out[n * inputs + k] = w[n * inputs + k]! + row[k]!;
  }
  return out;
}

/** What is left of a model's parameters when its adapter is merged: those of the checkpoint. */
export const mergedParameters = (parameters: readonly Parameter[]): readonly Parameter[] =>
  parameters.filter((p) => !/\.lora_[AB]\.weight$/.test(p.name));
