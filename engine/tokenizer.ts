/** Text to token ids and back, for the tokenizer of a Hugging Face folder. */
import { Tokenizer as Engine } from "npm:@huggingface/tokenizers@0.2.0";
import { joinInts } from "./arrays.ts";
import { assistantParts, type Part } from "./assistant.ts";
import { isObject, join, type JsonObject, readJson, readJsonOrNull } from "./files.ts";
import { type ChatTemplate, loadTemplate, type Message } from "./template.ts";

export type { Part } from "./assistant.ts";
export type { Message } from "./template.ts";

/** Token ids of a conversation or a completed prompt, and which of them the model chose. */
export interface ActionTokens {
  readonly ids: Int32Array;
  /** Positions in `ids`, ascending, never 0: nothing predicts the first token. */
  readonly actions: Int32Array;
}

export interface TokenizerOptions {
  /** Rows of the model's embedding: every id must be below. */
  readonly embeddingRows?: number;
  /** Further variables for the chat template, such as `{ enable_thinking: false }`. */
  readonly templateVariables?: JsonObject;
}

/** Tokens of context that decoding needs before a continuation: enough for the longest UTF-8 sequence in byte tokens. */
const CONTEXT = 8;

export class Tokenizer {
  readonly #engine: Engine;
  readonly #template: ChatTemplate | null;
  /** Smallest number of embedding rows that holds every id. */
  readonly size: number;
  readonly bosId: number | null;
  readonly eosId: number | null;
  /** Whether the tokenizer itself begins a text with the BOS token. */
  readonly addsBos: boolean;
  /** The special token that ends an assistant's turn in the chat template, and its id. */
  readonly endOfTurn: { readonly text: string; readonly id: number } | null;
  /** Ids that end a response, ascending: of the generation config, the model config, the tokenizer and the template. */
  readonly stopIds: readonly number[];
  readonly #special: ReadonlyMap<number, string>;

  /** Use {@link Tokenizer.load}. */
  private constructor(
    readonly folder: string,
    engine: Engine,
    config: JsonObject,
    template: ChatTemplate | null,
    eosIds: readonly number[],
  ) {
    this.#engine = engine;
    this.#template = template;
    this.size = largest(engine.get_vocab().values()) + 1;
    this.#special = new Map(
      [...engine.get_added_tokens_decoder()].filter(([, token]) => token.special).map((
        [id, token],
      ) => [id, token.content]),
    );
    this.bosId = this.#idOf(config, "bos_token");
    this.eosId = this.#idOf(config, "eos_token");
    const explicit = config["add_bos_token"];
    this.addsBos = this.bosId !== null &&
      (typeof explicit === "boolean" ? explicit : engine.encode("").ids[0] === this.bosId);
    this.endOfTurn = this.#findEndOfTurn();
    const stops = [...eosIds, this.eosId, this.endOfTurn?.id ?? null].filter((id) => id !== null);
    this.stopIds = [...new Set(stops)].sort((a, b) => a - b);
  }

  /**
   * Reads tokenizer.json, tokenizer_config.json, chat_template.jinja and the end-of-sequence ids of
   * generation_config.json and config.json. Throws when tokenizer.json is missing or has ids past the embedding.
   */
  static async load(folder: string, options: TokenizerOptions = {}): Promise<Tokenizer> {
    const path = join(folder, "tokenizer.json");
    const json = await readJson(path, `the tokenizer of ${folder}`);
    const config = await readJsonOrNull(join(folder, "tokenizer_config.json")) ?? {};
    const variables: Record<string, string> = {};
    for (const name of ["bos_token", "eos_token", "unk_token", "pad_token"]) {
      const text = tokenText(config[name]);
      if (text !== null) variables[name] = text;
    }
    const template = await loadTemplate(folder, config, { ...variables, ...options.templateVariables });
    let engine: Engine;
    try {
      engine = new Engine(json, config);
    } catch (error) {
      throw new Error(
        `Cannot build the tokenizer of ${path}: ${
          (error as Error).message
        }, take the original file of the model`,
      );
    }
    const eosIds: number[] = [];
    for (const name of ["generation_config.json", "config.json"]) {
      const ids = (await readJsonOrNull(join(folder, name)))?.["eos_token_id"];
      for (const id of Array.isArray(ids) ? ids : [ids]) if (typeof id === "number") eosIds.push(id);
    }
    const tokenizer = new Tokenizer(folder, engine, config, template, eosIds);
    const rows = options.embeddingRows;
    if (rows !== undefined && tokenizer.size > rows) {
      throw new RangeError(
        `Cannot use the tokenizer of ${folder}: its largest id is ${
          tokenizer.size - 1
        } and the model's embedding has ${rows} rows, take tokenizer and weights of one model`,
      );
    }
    return tokenizer;
  }

  get hasTemplate(): boolean {
    return this.#template !== null;
  }

  /** Whether both give the same ids to the same tokens; how they cut a text into tokens may differ. */
  sharesVocabulary(other: Tokenizer): boolean {
    const own = this.#engine.get_vocab(), others = other.#engine.get_vocab();
    return own.size === others.size && [...own].every(([token, id]) => others.get(token) === id);
  }

  /**
   * Token ids of a text. The BOS token is put first when `bos` says so, or by default when the tokenizer's own settings
   * do; a text that already begins with it is refused then. No end token is added.
   */
  encode(text: string, { bos = this.addsBos }: { readonly bos?: boolean } = {}): Int32Array {
    const ids = this.#encode(text);
    if (!bos) return Int32Array.from(ids);
    if (this.bosId === null) {
      throw new TypeError(
        `Cannot begin a text with the BOS token: the tokenizer of ${this.folder} has none, name a bos_token in tokenizer_config.json`,
      );
    }
    if (ids[0] === this.bosId) {
      throw new Error(
        `Cannot encode a text: the text begins with ${
          this.#special.get(this.bosId)
        } (chat templates write it) and the ` +
          `tokenizer of ${this.folder} adds it again (add_bos_token), give messages instead of text or encode with bos: false`,
      );
    }
    return joinInts([[this.bosId], ids]);
  }

  /**
   * Text of token ids, exactly as generated: spaces before punctuation are never "cleaned up". `after` are the tokens
   * before them; some tokenizers drop the space that begins a text, and a response is not the beginning.
   */
  decode(
    ids: ArrayLike<number>,
    { skipSpecial = true, after }: { readonly skipSpecial?: boolean; readonly after?: ArrayLike<number> } =
      {},
  ): string {
    const decode = (list: number[]) =>
      list.length === 0 ? "" : this.#engine.decode(list, {
        skip_special_tokens: skipSpecial,
        clean_up_tokenization_spaces: false,
      });
    const list = Array.from(ids);
    if (after === undefined || after.length === 0) return decode(list);
    const context = Array.from(after).slice(-CONTEXT);
    const before = decode(context), whole = decode([...context, ...list]);
    return whole.startsWith(before) ? whole.slice(before.length) : decode(list);
  }

  /** Text of a conversation in the model's own notation. */
  render(
    messages: readonly Message[],
    { addGenerationPrompt = false }: { readonly addGenerationPrompt?: boolean } = {},
  ) {
    return this.#needTemplate().render(messages, addGenerationPrompt);
  }

  /** Token ids of a conversation, by default one that the assistant is to continue. The template alone decides about BOS. */
  encodeChat(messages: readonly Message[], addGenerationPrompt = true): Int32Array {
    const ids = this.#encode(this.render(messages, { addGenerationPrompt }));
    this.#checkOneBos(ids);
    return Int32Array.from(ids);
  }

  /**
   * Token ids of a whole conversation and the positions of the assistant's tokens: what it would have to generate after
   * each generation prompt, the token that ends its turn included. Turns before message `from` count as given. Throws
   * when the template rewrites earlier turns, so that the assistant's text cannot be located exactly.
   */
  assistantMask(messages: readonly Message[], { from = 0 }: { readonly from?: number } = {}): ActionTokens {
    const parts = assistantParts(this.#needTemplate(), messages, this.endOfTurn?.text ?? null, from);
    const encoded = this.encodeParts(parts, { bos: false });
    this.#checkOneBos(encoded.ids);
    return encoded;
  }

  /**
   * Tokens of consecutive texts, with a token boundary at every cut. The tokens are those of the whole text where they
   * have these boundaries; else those of each text by itself, which is what generating one after the other gives,
   * provided that they spell the same text.
   */
  encodeParts(parts: readonly Part[], { bos = this.addsBos }: { readonly bos?: boolean } = {}): ActionTokens {
    const whole = this.encode(parts.map((part) => part.text).join(""), { bos });
    const pieces = parts.map((part, i) => this.encode(part.text, { bos: bos && i === 0 }));
    const ids = Int32Array.from(pieces.flatMap((piece) => [...piece]));
    // Nearly always the two agree; asking for prefixes of the whole costs an encoding per part.
    const agree = ids.length === whole.length && ids.every((id, i) => id === whole[i]);
    const cut = agree ? null : this.#cutWhole(parts, whole, bos);
    if (cut !== null) return { ids: whole, actions: positions(parts, cut) };
    if (!agree && this.decode(ids, { skipSpecial: false }) !== this.decode(whole, { skipSpecial: false })) {
      const shown = parts.find((part) => part.action)?.text.slice(0, 20) ?? "";
      throw new Error(
        `Cannot tell the tokens of ${
          JSON.stringify(shown)
        } from those before: the tokenizer of ${this.folder} joins ` +
          `them, begin it with a space or end the prompt with one`,
      );
    }
    return { ids, actions: positions(parts, pieces.map((piece) => piece.length)) };
  }

  /** How many of the whole text's tokens each part has, or null when a part's end falls inside a token. */
  #cutWhole(parts: readonly Part[], whole: Int32Array, bos: boolean): number[] | null {
    const lengths: number[] = [];
    let prefix = "", before = 0;
    for (const [i, part] of parts.entries()) {
      prefix += part.text;
      const ids = i === parts.length - 1 ? whole : this.encode(prefix, { bos });
      for (let t = before; t < ids.length; t++) if (ids[t] !== whole[t]) return null;
      if (ids.length < before) return null;
      lengths.push(ids.length - before);
      before = ids.length;
    }
    return lengths;
  }

  #needTemplate(): ChatTemplate {
    if (this.#template !== null) return this.#template;
    throw new Error(
      `Cannot render messages: ${this.folder} has no chat template, add chat_template.jinja or use text prompts`,
    );
  }

  #encode(text: string): number[] {
    if (text === "") return [];
    const { ids, tokens } = this.#engine.encode(text, { add_special_tokens: false });
    const unknown = ids.findIndex((id) => id === undefined);
    if (unknown >= 0) {
      throw new Error(
        `Cannot encode ${
          JSON.stringify(tokens[unknown])
        }: the tokenizer of ${this.folder} has no unknown token, remove that text`,
      );
    }
    return ids;
  }

  #checkOneBos(ids: ArrayLike<number>): void {
    if (this.bosId !== null && ids.length > 1 && ids[0] === this.bosId && ids[1] === this.bosId) {
      throw new Error(
        `Cannot encode a conversation: the chat template of ${
          this.#template!.origin
        } and the first message both begin ` +
          `with ${this.#special.get(this.bosId)}, remove it from the message`,
      );
    }
  }

  #idOf(config: JsonObject, name: string): number | null {
    const text = tokenText(config[name]);
    return text === null ? null : this.#engine.token_to_id(text) ?? null;
  }

  /** The first special token that the template writes after an answer. */
  #findEndOfTurn(): { readonly text: string; readonly id: number } | null {
    for (const id of this.#encode(this.#template?.afterAnswer() ?? "")) {
      const text = this.#special.get(id);
      if (text !== undefined) return { text, id };
    }
    return null;
  }
}

/** A special token in tokenizer_config.json is a string or an object with its content. */
function tokenText(value: unknown): string | null {
  if (typeof value === "string") return value;
  return isObject(value) && typeof value["content"] === "string" ? value["content"] : null;
}

/** Spreading a whole vocabulary into Math.max would overflow the stack. */
function largest(numbers: Iterable<number>): number {
  let most = -1;
  for (const n of numbers) most = Math.max(most, n);
  return most;
}

function positions(parts: readonly Part[], lengths: readonly number[]): Int32Array {
  const out: number[] = [];
  let at = 0;
  parts.forEach((part, i) => {
    const end = at + lengths[i]!;
    for (; at < end; at++) if (part.action && at > 0) out.push(at);
  });
  return Int32Array.from(out);
}
