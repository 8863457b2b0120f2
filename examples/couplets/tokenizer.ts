/**
 * Trains a byte-level BPE tokenizer (Sennrich et al. 2016; over bytes as in GPT-2) and writes it in the format of
 * Hugging Face's tokenizer.json. Pure: the same texts give the same file.
 */

/** Marks where a text begins and where it ends; their ids are the two highest. */
export const SPECIAL = { begin: "<|begin|>", end: "<|end|>" } as const;

/** The part of tokenizer.json that is written here. */
export interface TokenizerJson {
  readonly version: "1.0";
  readonly truncation: null;
  readonly padding: null;
  readonly added_tokens: readonly AddedToken[];
  readonly normalizer: null;
  readonly pre_tokenizer: ByteLevel;
  readonly post_processor: null;
  readonly decoder: ByteLevel;
  readonly model: {
    readonly type: "BPE";
    readonly dropout: null;
    readonly unk_token: null;
    readonly continuing_subword_prefix: null;
    readonly end_of_word_suffix: null;
    readonly fuse_unk: false;
    readonly byte_fallback: false;
    readonly ignore_merges: false;
    readonly vocab: Readonly<Record<string, number>>;
    /** Each "left right", in the order in which they are applied. */
    readonly merges: readonly string[];
  };
}

interface ByteLevel {
  readonly type: "ByteLevel";
  readonly add_prefix_space: false;
  readonly trim_offsets: true;
  readonly use_regex: true;
}

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly single_word: false;
  readonly lstrip: false;
  readonly rstrip: false;
  readonly normalized: false;
  readonly special: true;
}

/**
 * The ByteLevel format writes bytes as printable characters: those that are printable in Latin-1 stand for themselves,
 * the others are moved, in order, to the code points from 256 on (so a space is "Ġ").
 */
const BYTE_CHARACTERS: readonly string[] = (() => {
  const printable = (byte: number): boolean =>
    (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let moved = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : moved++));
})();

/** How the ByteLevel pre-tokenizer cuts text: a word keeps the space before it. */
const PIECES = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

const byteLevel: ByteLevel = {
  type: "ByteLevel",
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: true,
};

/**
 * Trains on texts until the vocabulary, with 256 bytes and two special tokens, has `vocabSize` entries.
 *
 * @throws {RangeError} When `vocabSize` is below 258, or the texts hold too few pairs to reach it.
 */
export function trainTokenizer(texts: Iterable<string>, vocabSize: number): TokenizerJson {
  const mergeCount = vocabSize - 256 - Object.keys(SPECIAL).length;
  if (mergeCount < 0) {
    throw new RangeError(
      `Cannot train a tokenizer: ${vocabSize} tokens are fewer than 256 bytes and 2 specials`,
    );
  }
  const pieces = countPieces(texts);
  const tokens = [...BYTE_CHARACTERS];
  const merges: string[] = [];
  while (merges.length < mergeCount) {
    const [left, right] = mostFrequentPair(pieces, tokens.length);
    merges.push(`${tokens[left]!} ${tokens[right]!}`);
    for (const piece of pieces) piece.ids = merged(piece.ids, left, right, tokens.length);
    tokens.push(tokens[left]! + tokens[right]!);
  }
  const specials = Object.values(SPECIAL).map((content, index): AddedToken => ({
    id: tokens.length + index,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  }));
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specials,
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(
        [...tokens, ...specials.map((token) => token.content)].map((token, id) => [token, id]),
      ),
      merges,
    },
  };
}

/** The tokenizer_config.json that goes with it. */
export const tokenizerConfig = {
  tokenizer_class: "PreTrainedTokenizerFast",
  bos_token: SPECIAL.begin,
  eos_token: SPECIAL.end,
  add_bos_token: false,
  add_eos_token: false,
  add_prefix_space: false,
  clean_up_tokenization_spaces: false,
  model_max_length: 64,
} as const;

/** A distinct piece of the texts: its tokens so far and how often it occurs. */
interface Piece {
  ids: readonly number[];
  readonly count: number;
}

function countPieces(texts: Iterable<string>): Piece[] {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const [piece] of text.matchAll(PIECES)) counts.set(piece, (counts.get(piece) ?? 0) + 1);
  }
  const encoder = new TextEncoder();
  return [...counts].map(([piece, count]) => ({ ids: [...encoder.encode(piece)], count }));
}

/** The neighbours that occur most often; of equals the pair with the lowest ids, so that the order of texts is nothing. */
function mostFrequentPair(pieces: readonly Piece[], size: number): readonly [left: number, right: number] {
  const counts = new Map<number, number>();
  for (const { ids, count } of pieces) {
    for (let i = 1; i < ids.length; i++) {
      const pair = ids[i - 1]! * size + ids[i]!;
      counts.set(pair, (counts.get(pair) ?? 0) + count);
    }
  }
  let best = -1, most = 0;
  for (const [pair, count] of counts) {
    if (count > most || (count === most && pair < best)) [best, most] = [pair, count];
  }
  if (best < 0) {
    throw new RangeError(
      `Cannot grow the vocabulary beyond ${size} tokens: the texts have no pair left, ask for fewer`,
    );
  }
  return [Math.floor(best / size), best % size];
}

function merged(ids: readonly number[], left: number, right: number, id: number): readonly number[] {
  const out: number[] = [];
  for (let i = 0; i < ids.length; i++) {
    if (ids[i] === left && ids[i + 1] === right) {
      out.push(id);
      i++;
    } else out.push(ids[i]!);
  }
  return out.length === ids.length ? ids : out;
}
