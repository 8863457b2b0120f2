/** `generate` and `score` for one model without a workflow: what the command line and a notebook use. */
import { compileCopyPages, compileDecode, compileInfer, compilePrefill } from "../compiler/compile.ts";
import { Device } from "../ffi/device.ts";
import type { TokenColumn } from "../engine/batch.ts";
import { Binding } from "../engine/binding.ts";
import { Engine } from "../engine/engine.ts";
import { Generator } from "../engine/generate.ts";
import { infer } from "../engine/infer.ts";
import { baseName } from "../engine/files.ts";
import { streamKey } from "../engine/random.ts";
import { type Maxima, PAGE } from "../ir/op.ts";
import type { Program } from "../ir/program.ts";
import { DeviceSegment } from "../ffi/device.ts";
import { engineModel, type LoadedModel, loadModel, tokenizerOf } from "./models.ts";
import { defaultThreads } from "./options.ts";

/** Options of {@link generate}. Exactly one of `prompt` and `tokens` is given. */
export interface GenerateOptions {
  readonly prompt?: string;
  readonly tokens?: readonly number[];
  readonly maxNewTokens: number;
  /** 0 is greedy. */
  readonly temperature: number;
  /** 1 is off. */
  readonly topP: number;
  /** 0 is off. */
  readonly topK?: number;
  readonly seed: number;
  readonly ignoreEos: boolean;
  readonly threads?: number;
}

/** The response only, without the prompt. `logprobs[i]` belongs to `tokens[i]`. */
export interface Generated {
  readonly tokens: readonly number[];
  /** Empty when the model's folder has no tokenizer. */
  readonly text: string;
  readonly logprobs: readonly number[];
}

/** Exactly one of `text` and `tokens`. */
export type ScoreItem = { readonly text: string } | { readonly tokens: readonly number[] };

export interface Scored {
  readonly tokens: readonly number[];
  /** `logprobs[i]` = log p(tokens[i + 1] | tokens[0 … i]), in nats: one shorter than `tokens`. */
  readonly logprobs: readonly number[];
  readonly sum: number;
}

const NONE: Maxima = { one: 1, tokens: 0, actions: 0, sequences: 0, groups: 0, pairs: 0 };

async function open(folder: string, threads: number, programs: (m: LoadedModel) => Program[]) {
  const model = await loadModel(baseName(folder), { head: "lm", checkpoint: folder, optimizer: null });
  const compiled = programs(model), device = Device.open({ threads });
  const engine = await Engine.create(device, {
    models: {
      model: engineModel(
        model,
        Math.max(...compiled.map((p) => p.segmentBytes.constants)) / (4 * model.config.headDim),
      ),
    },
    states: {},
    arenaBytes: Math.max(...compiled.map((p) => p.segmentBytes.arena)),
    prologue: [{ op: "load", replica: "model@0", model: "model" }],
  });
  return {
    model,
    compiled,
    device,
    engine,
    shared: { arena: engine.arena, ...engine.replicas.get("model")!.segments },
  };
}

/**
 * Continues a prompt.
 *
 * @throws when the folder has no loadable model, or the prompt does not leave room for a token
 */
export async function generate(folder: string, options: GenerateOptions): Promise<Generated> {
  let prompt = Int32Array.from(options.tokens ?? []);
  const sampling = {
    maxNewTokens: options.maxNewTokens,
    temperature: options.temperature,
    topK: options.topK ?? 0,
    topP: options.topP,
    samples: 1,
    stop: [],
    ignoreEos: options.ignoreEos,
    maxLag: 0,
  };
  let stops: readonly number[] = [],
    sizes = { slots: 1, pages: 1, maxPages: 1, maxNew: options.maxNewTokens, prefillTokens: 1 };
  const { model, compiled, device, engine, shared } = await open(
    folder,
    options.threads ?? defaultThreads(),
    (m) => {
      prompt = promptOf(m, options, prompt);
      stops = options.ignoreEos ? [] : m.tokenizer?.stopIds ?? [m.json.eos_token_id ?? []].flat() as number[];
      const maxPages =
        Math.floor(Math.min(prompt.length + options.maxNewTokens, m.config.maxPositions) / PAGE) + 1;
      sizes = {
        slots: 1,
        pages: maxPages,
        maxPages,
        maxNew: options.maxNewTokens,
        prefillTokens: maxPages * PAGE,
      };
      const o = { sampling, ...sizes, stops: Math.max(1, stops.length) };
      const decode = { ...NONE, tokens: 1, sequences: 1 };
      return [
        compilePrefill(m.config, {
          ...o,
          maxima: { ...NONE, tokens: sizes.prefillTokens, actions: 1, sequences: 1 },
        }),
        compileDecode(m.config, { ...o, maxima: decode }),
        compileCopyPages(m.config, { ...o, maxima: decode }),
      ];
    },
  );
  const [prefill, decode, copyPages] = compiled as [Program, Program, Program];
  const generator = new Generator(device, { prefill, decode, copyPages }, sizes, {
    ...shared,
    kv: new DeviceSegment(decode.segmentBytes.kv),
    state: new DeviceSegment(Math.max(prefill.segmentBytes.state, decode.segmentBytes.state)),
  });
  const [response] = await generator.run({
    prompts: [prompt],
    indices: [0],
    samples: 1,
    maxNewTokens: options.maxNewTokens,
    stops,
    key: streamKey(options.seed, "generate"),
    maxPositions: model.config.maxPositions,
  });
  engine.dispose();
  const tokens = [...response!.tokens];
  return {
    tokens,
    text: model.tokenizer?.decode(response!.tokens, { skipSpecial: true, after: prompt }) ?? "",
    logprobs: [...response!.logprobs],
  };
}

function promptOf(
  m: LoadedModel,
  options: GenerateOptions,
  given: Int32Array<ArrayBuffer>,
): Int32Array<ArrayBuffer> {
  const ids = options.prompt === undefined ? given : Int32Array.from(tokenizerOf(m).encode(options.prompt));
  checkIds(m, ids);
  if (ids.length === 0) throw new RangeError("Cannot generate: the prompt has no token, give at least one");
  if (ids.length >= m.config.maxPositions) {
    throw new RangeError(
      `Cannot generate: the prompt has ${ids.length} tokens and the model's context is ${m.config.maxPositions}, shorten it`,
    );
  }
  return ids;
}

function checkIds(m: LoadedModel, ids: Int32Array): void {
  const bad = ids.find((id) => id < 0 || id >= m.config.vocab);
  if (bad !== undefined) {
    throw new RangeError(
      `Cannot use token id ${bad}: the model's vocabulary has ids 0 to ${m.config.vocab - 1}`,
    );
  }
}

/** Sequences scored in one program run. */
const SCORE_TOKENS = 4096;

/** Log-probabilities of given sequences, in the order given. */
export async function* score(
  folder: string,
  items: AsyncIterable<ScoreItem> | Iterable<ScoreItem>,
  options: { readonly threads?: number } = {},
): AsyncGenerator<Scored> {
  let limit = 0;
  const { model, compiled, device, engine, shared } = await open(
    folder,
    options.threads ?? defaultThreads(),
    (m) => {
      limit = Math.max(SCORE_TOKENS, m.config.maxPositions);
      const maxima = { ...NONE, tokens: limit, actions: limit, sequences: limit };
      return [compileInfer(m.config, "lm", { maxima, outputs: ["logprobs"] })];
    },
  );
  const binding = new Binding(device, compiled[0]!, shared);
  let waiting: Int32Array[] = [], tokens = 0, n = 0;
  for await (const item of items) {
    n++;
    const ids = "tokens" in item
      ? Int32Array.from(item.tokens)
      : Int32Array.from(tokenizerOf(model).encode(item.text));
    checkIds(model, ids);
    if (ids.length === 0 || ids.length > model.config.maxPositions) {
      throw new RangeError(
        `Cannot score item ${n}: it has ${ids.length} tokens and the model takes 1 to ${model.config.maxPositions}`,
      );
    }
    if (tokens + ids.length > limit) {
      yield* await scoreBatch(binding, waiting);
      waiting = [];
      tokens = 0;
    }
    waiting.push(ids);
    tokens += ids.length;
  }
  if (waiting.length) yield* await scoreBatch(binding, waiting);
  binding.dispose();
  engine.dispose();
}

async function scoreBatch(binding: Binding, rows: readonly Int32Array[]): Promise<Scored[]> {
  const column: TokenColumn = {
    ids: rows,
    actions: rows.map((ids) => Int32Array.from({ length: ids.length - 1 }, (_, i) => i + 1)),
    temperature: 1,
    versions: rows.map(() => -1),
  };
  const { logprobs } = await infer(binding, column, ["logprobs"]);
  let at = 0;
  return rows.map((ids) => {
    const own = [...logprobs!.subarray(at, at += ids.length - 1)];
    return { tokens: [...ids], logprobs: own, sum: own.reduce((a, b) => a + b, 0) };
  });
}
