/** A reward model with another vocabulary reads the same conversation through its own tokenizer (DESIGN §3.5). */
import type { Batch, TokenColumn } from "./batch.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** The parts of a model that decide how it reads text. */
export interface Reader {
  readonly tokenizer: Tokenizer | null;
  /** Text of tokenizer.json; null without one. */
  readonly vocabulary: string | null;
  readonly config: { readonly maxPositions: number };
}

/** Whether token ids mean the same to both. Equal files say so at once, but writers format one vocabulary differently. */
export const sameVocabulary = (a: Reader, b: Reader): boolean =>
  a.vocabulary === b.vocabulary ||
  (a.tokenizer !== null && b.tokenizer !== null && a.tokenizer.sharesVocabulary(b.tokenizer));

/** Returns the token column as `model` reads it: the same one when its vocabulary is the owner's. */
export function retokenizer(
  owner: Reader,
  models: Readonly<Record<string, Reader>>,
): (model: string, column: TokenColumn, batch: Batch) => TokenColumn {
  const others = new Set(Object.keys(models).filter((name) => !sameVocabulary(models[name]!, owner)));
  return (model, column, batch) => {
    if (!others.has(model)) return column;
    const { tokenizer, config } = models[model]!;
    if (!tokenizer || !owner.tokenizer) {
      throw new Error(
        `Cannot score with ${model}: it has another vocabulary than the policy and one of them has no tokenizer.json, add it to its folder`,
      );
    }
    const texts = { model, reader: tokenizer, owner: owner.tokenizer };
    const ids = column.ids.map((own, s) => {
      const read = reread(texts, own, column.actions[s]!, batch, s);
      if (read.length > config.maxPositions) {
        throw new RangeError(
          `Cannot score sample ${s} with ${model}: in its vocabulary the sample has ${read.length} tokens and its context is ` +
            `${config.maxPositions}, shorten prompts or responses`,
        );
      }
      return read;
    });
    return { ids, actions: ids.map(() => new Int32Array(0)), temperature: 1, versions: column.versions };
  };
}

/** Messages are rendered with the reader's own template, the response as the assistant's; plain text is encoded again. */
function reread(
  { model, reader, owner }: {
    readonly model: string;
    readonly reader: Tokenizer;
    readonly owner: Tokenizer;
  },
  ids: Int32Array,
  actions: Int32Array,
  batch: Batch,
  s: number,
): Int32Array {
  const { messages } = batch.rowOf(s), start = actions[0] ?? ids.length;
  if (!messages) return reader.encode(owner.decode(ids));
  if (!reader.hasTemplate) {
    throw new Error(
      `Cannot score with ${model}: prompts are messages and ${reader.folder} has no chat template, add chat_template.jinja`,
    );
  }
  const content = owner.decode(ids.subarray(start), { after: ids.subarray(0, start) });
  return reader.encodeChat([...messages, { role: "assistant", content }], false);
}
