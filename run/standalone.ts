/**
 * `generate` and `score` for one model without a workflow, for the command line; a notebook imports them as `generateText`
 * and `scoreTokens`, because the language has calls of those names.
 */
import { compileCopyPages, compileDecode, compileInfer, compilePrefill } from "../compiler/compile.ts";
import type { TokenColumn } from "../engine/batch.ts";
import type { Staged } from "../engine/lanes.ts";
import { Generator } from "../engine/generate.ts";
import { infer } from "../engine/infer.ts";
import { streamKey } from "../engine/random.ts";
import { PAGE } from "../ir/op.ts";
import { type LoadedModel, tokenizerOf } from "./models.ts";
import { checkIds, type ModelOptions, NONE, openModel, shardOf } from "./single_model.ts";

/** Options of {@link generate}. Exactly one of `prompt` and `tokens` is given. */
export interface GenerateOptions extends ModelOptions {
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

/** One sequence under a model. */
export interface Scored {
  readonly tokens: readonly number[];
  /** `logprobs[i]` = log p(tokens[i + 1] | tokens[0 … i]), in nats: one shorter than `tokens`. */
  readonly logprobs: readonly number[];
  readonly sum: number;
}

/**
 * Continues a prompt with the model of a folder. A folder without a tokenizer takes and gives token ids.
 *
 * @throws when the folder has no loadable model, or the prompt does not leave room for a token
 * @example
 * ```ts
 * import { generateText } from "@baton/baton";
 *
 * const complete = async (folder: string, prompt: string) => {
 *   const options = { maxNewTokens: 64, temperature: 0.8, topP: 0.95, seed: 1, ignoreEos: false };
 *   return (await generateText(folder, { prompt, ...options })).text;
 * };
 * ```
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
  const { model, bound, held } = await openModel(
    folder,
    options,
    (m) => {
      prompt = promptOf(m, options, prompt);
      stops = options.ignoreEos ? [] : m.tokenizer?.stopIds ?? m.config.eosTokens;
      const maxPages =
        Math.floor(Math.min(prompt.length + options.maxNewTokens, m.config.maxPositions) / PAGE) + 1;
      sizes = {
        slots: 1,
        pages: maxPages,
        maxPages,
        maxNew: options.maxNewTokens,
        prefillTokens: maxPages * PAGE,
      };
      const o = { sampling, ...sizes, stops: Math.max(1, stops.length) }, shard = shardOf(m);
      const decode = { ...NONE, tokens: 1, sequences: 1 };
      const rank = {
        prefill: compilePrefill(shard, {
          ...o,
          maxima: { ...NONE, tokens: sizes.prefillTokens, actions: 1, sequences: 1 },
        }),
        decode: compileDecode(shard, { ...o, maxima: decode }),
        copyPages: compileCopyPages(shard, { ...o, maxima: decode }),
      };
      const cache = { ...sizes, stops: o.stops, longestPrompt: prompt.length };
      return {
        call: { kind: "generate", id: "generate", model: "model", sampling, reads: {}, writes: {} },
        programs: { generate: { generate: { ranks: [[rank]], cache } } },
        compiled: Object.values(rank),
      };
    },
  );
  using _ = held;
  const generator = new Generator(bound, sizes);
  const [response] = await generator.run({
    prompts: [prompt],
    indices: [0],
    samples: 1,
    maxNewTokens: options.maxNewTokens,
    stops,
    key: streamKey(options.seed, "generate"),
    maxPositions: model.config.maxPositions,
  });
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

/** Tokens of one program run, unless a sequence has more. */
const SCORE_TOKENS = 4096;

/**
 * Log-probabilities of given sequences under the language model of a folder, in the order given.
 *
 * @throws when the folder has no loadable model, or a sequence is empty or longer than the model's context
 * @example
 * ```ts
 * import { scoreTokens } from "@baton/baton";
 *
 * async function perplexity(folder: string, text: string): Promise<number> {
 *   for await (const { sum, logprobs } of scoreTokens(folder, [{ text }])) return Math.exp(-sum / logprobs.length);
 *   return NaN;
 * }
 * ```
 */
export async function* score(
  folder: string,
  items: AsyncIterable<ScoreItem> | Iterable<ScoreItem>,
  options: ModelOptions = {},
): AsyncGenerator<Scored> {
  let scorer = await openScorer(folder, options, SCORE_TOKENS);
  try {
    const { model } = scorer, { maxPositions } = model.config;
    let waiting: Int32Array[] = [], tokens = 0, n = 0;
    for await (const item of items) {
      const ids = scoredIds(model, item, ++n);
      if (waiting.length && tokens + ids.length > scorer.limit) {
        yield* await scoreBatch(scorer.program, waiting);
        waiting = [];
        tokens = 0;
      }
      if (ids.length > scorer.limit) {
        // Memory for the longest possible sequence would often be wasted: it grows when one comes.
        scorer.held.dispose();
        scorer = await openScorer(
          folder,
          options,
          Math.min(maxPositions, 2 ** Math.ceil(Math.log2(ids.length))),
        );
      }
      waiting.push(ids);
      tokens += ids.length;
    }
    if (waiting.length) yield* await scoreBatch(scorer.program, waiting);
  } finally {
    scorer.held.dispose();
  }
}

async function openScorer(folder: string, options: ModelOptions, limit: number) {
  const { model, bound, held } = await openModel(folder, options, (m) => {
    const maxima = { ...NONE, tokens: limit, actions: limit, sequences: limit };
    const program = compileInfer(shardOf(m), { maxima, outputs: ["logprobs"] });
    return {
      call: { kind: "infer", id: "score", model: "model", reads: {}, writes: {} },
      programs: { infer: { score: [[program]] } },
      compiled: [program],
    };
  });
  return { model, limit, held, program: bound.staged("infer", 0) };
}

function scoredIds(m: LoadedModel, item: ScoreItem, n: number): Int32Array {
  const ids = Int32Array.from("tokens" in item ? item.tokens : tokenizerOf(m).encode(item.text));
  checkIds(m, ids);
  if (ids.length === 0 || ids.length > m.config.maxPositions) {
    throw new RangeError(
      `Cannot score item ${n}: it has ${ids.length} tokens and the model takes 1 to ${m.config.maxPositions}, split or remove it`,
    );
  }
  return ids;
}

async function scoreBatch(program: Staged, rows: readonly Int32Array[]): Promise<Scored[]> {
  const column: TokenColumn = {
    ids: rows,
    actions: rows.map((ids) => Int32Array.from({ length: ids.length - 1 }, (_, i) => i + 1)),
    temperature: 1,
    versions: rows.map(() => -1),
  };
  const { logprobs } = await infer([[program]], column, ["logprobs"]);
  let at = 0;
  return rows.map((ids) => {
    const own = [...logprobs!.subarray(at, at += ids.length - 1)];
    return { tokens: [...ids], logprobs: own, sum: own.reduce((a, b) => a + b, 0) };
  });
}
