/** Reads what a run needs of its models before anything is compiled: configs, tokenizers, agreement of vocabularies. */
import { type ModelConfig, parseConfig } from "../compiler/models/config.ts";
import { SINGLE, type Storage } from "../compiler/models/storage.ts";
import { SCORE } from "../compiler/models/parameters.ts";
import { parameters, ropeTable } from "../compiler/models/transformer.ts";
import type { CallGraph, ModelSpec } from "../ir/graph.ts";
import { readAdapter } from "../engine/adapter.ts";
import type { EngineModel } from "../engine/engine.ts";
import { type JsonObject, readJsonOrNull, readTextOrNull } from "../engine/files.ts";
import { modelFolder } from "../engine/hub.ts";
import { sameVocabulary } from "../engine/retokenize.ts";
import { Tokenizer } from "../engine/tokenizer.ts";
import { loadWeights } from "../engine/weights.ts";

export interface LoadedModel {
  readonly name: string;
  readonly folder: string;
  readonly spec: ModelSpec;
  readonly config: ModelConfig;
  /** config.json as it was read. */
  readonly json: JsonObject;
  /** Null for a folder without tokenizer.json: token ids still work. */
  readonly tokenizer: Tokenizer | null;
  /** Text of tokenizer.json; null without one. */
  readonly vocabulary: string | null;
}

/** @param storage what its numbers are stored in */
export async function loadModel(
  name: string,
  spec: ModelSpec,
  storage: Storage = SINGLE,
): Promise<LoadedModel> {
  const folder = await modelFolder(spec.checkpoint), path = `${folder}/config.json`;
  const json = await readJsonOrNull(path);
  if (json === null) {
    throw new Error(
      `Cannot load ${name}: ${path} does not exist, give a folder with config.json and model.safetensors or a model of the hub ("Qwen/Qwen3-0.6B")`,
    );
  }
  const config = {
    ...parseConfig(json, path),
    ...(spec.lora && { lora: spec.lora }),
    ...stored(spec, storage),
  };
  const vocabulary = await readTextOrNull(`${folder}/tokenizer.json`);
  const tokenizer = vocabulary === null
    ? null
    : await Tokenizer.load(folder, { embeddingRows: config.vocab });
  return { name, folder, spec, config, json, tokenizer, vocabulary };
}

/**
 * Part of a model's config; absent where all is f32 in panels, so that what such a model compiles to does not depend on whether it was
 * said. An average of weights is f32 in any case: steps of a hundredth of a difference would be rounded away.
 */
export function stored({ ema }: Pick<ModelSpec, "ema">, storage: Storage): { readonly storage?: Storage } {
  const own = ema ? { ...SINGLE, layout: storage.layout } : storage;
  return own.weights === "f32" && own.layout === "panels" ? {} : { storage: own };
}

/** Models that appear in the graph's calls, loaded and checked against one another. */
export async function loadModels(
  graph: CallGraph,
  storage: Storage = SINGLE,
): Promise<Record<string, LoadedModel>> {
  const models: Record<string, LoadedModel> = {};
  for (const [name, spec] of Object.entries(graph.models)) {
    models[name] = await loadModel(name, spec, storage);
  }
  checkVocabularies(models);
  checkAverages(models);
  return withSharedContext(models);
}

/** Models that read the same tokens reach as far as the smallest context among them: no sample gets longer. */
function withSharedContext(
  models: Readonly<Record<string, LoadedModel>>,
): Record<string, LoadedModel> {
  const all = Object.values(models), owner = all.find((m) => m.spec.head !== "reward") ?? all[0];
  const sharing = all.filter((m) => sameVocabulary(m, owner!));
  const maxPositions = Math.min(...sharing.map((m) => m.config.maxPositions));
  const shared = sharing.map((m) => [m.name, { ...m, config: { ...m.config, maxPositions } }]);
  return { ...models, ...Object.fromEntries(shared) };
}

/** Weights can follow weights of the same names and shapes only. */
function checkAverages(models: Readonly<Record<string, LoadedModel>>): void {
  for (const m of Object.values(models)) {
    const of = m.spec.ema && models[m.spec.ema.of];
    if (!of) continue;
    const theirs = new Map(parameters(of.config, of.spec.head).map((p) => [p.name, p.shape.join(" × ")]));
    const own = parameters(m.config, m.spec.head);
    const odd = own.find((p) => theirs.get(p.name) !== p.shape.join(" × "));
    if (!odd && own.length === theirs.size) continue;
    throw new Error(
      `Cannot run: ${m.name} (${m.folder}) follows ${of.name} (${of.folder}), and ` +
        (odd
          ? `its ${odd.name} is ${odd.shape.join(" × ")} where the other's is ${
            theirs.get(odd.name) ?? "missing"
          }`
          : `it has ${own.length} parameters where the other has ${theirs.size}`) +
        `, give both models of one shape`,
    );
  }
}

/** Whoever reads the token field itself shares its vocabulary; a frozen reward model reads text (DESIGN §3.5). */
function checkVocabularies(models: Readonly<Record<string, LoadedModel>>): void {
  const sharing = Object.values(models).filter((m) => m.spec.head !== "reward" || m.spec.optimizer !== null);
  const first = sharing[0];
  const differing = sharing.filter((m) =>
    m.config.vocab !== first!.config.vocab || !sameVocabulary(m, first!)
  );
  if (!first || !differing.length) return;
  const describe = (m: LoadedModel) => `${m.name} has ${m.config.vocab} tokens (${m.folder})`;
  throw new Error(
    `Cannot run: ${describe(first)} but ${differing.map(describe).join(" and ")}; ` +
      `policy and value models of one workflow share a vocabulary and a tokenizer, only a reward model that is not trained may differ`,
  );
}

/** The engine's view: parameters, rotary table for `positions`, and how to load. */
export function engineModel(m: LoadedModel, positions: number): EngineModel {
  const { head, lora } = m.spec, list = parameters(m.config, head), trained = m.spec.optimizer !== null;
  // A critic may start from a language model: its scalar head is then new. So is an adapter.
  const mayBeNew = list.filter((p) => lora ? !p.frozen : trained && head !== "lm" && p.name === SCORE);
  return {
    spec: m.spec,
    config: m.config,
    parameters: list,
    constants: ropeTable(m.config, positions),
    load: async (sink) => {
      await loadWeights(m.folder, list, sink, {
        allowMissing: mayBeNew.map((p) => p.name),
        initialization: { seed: 0, std: m.config.initializerRange },
        inRows: true,
      });
      if (lora?.from === undefined) return;
      await readAdapter(lora.from, { lora, head, parameters: list }, sink);
    },
  };
}

/** The tokenizer of a model that has to read text. */
export function tokenizerOf(m: LoadedModel): Tokenizer {
  if (m.tokenizer) return m.tokenizer;
  throw new Error(`Cannot read text: ${m.folder} has no tokenizer.json, give token ids instead`);
}
