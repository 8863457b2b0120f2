/** A reward model with another vocabulary reads the same conversation through its own tokenizer (DESIGN §3.5). */
import type { Batch, TokenColumn } from "./batch.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** The parts of a model that decide how it reads text. */
export interface Reader {
  readonly tokenizer: Tokenizer | null;
  /** Text of tokenizer.json: equal text is an equal vocabulary. */
  readonly vocabulary: string | null;
  readonly config: { readonly maxPositions: number };
}

/** Returns the token column as `model` reads it: the same one when its vocabulary is the owner's. */
export function retokenizer(
  owner: Reader,
  models: Readonly<Record<string, Reader>>,
): (model: string, column: TokenColumn, batch: Batch) => TokenColumn {
  return (model, column, batch) => {
    const reader = models[model]!;
    if (reader.vocabulary === owner.vocabulary) return column;
    if (!reader.tokenizer || !owner.tokenizer) {
      throw new Error(
        `Cannot score with ${model}: it has another vocabulary than the policy and one of them has no tokenizer.json`,
      );
    }
    const ids = column.ids.map((own, s) => {
      const read = reread(reader.tokenizer!, owner.tokenizer!, own, column.actions[s]!, batch, s);
      if (read.length > reader.config.maxPositions) {
        throw new RangeError(
          `Cannot score sample ${s} with ${model}: in its vocabulary the sample has ${read.length} tokens and its context is ` +
            `${reader.config.maxPositions}, shorten prompts or responses`,
        );
      }
      return read;
    });
    return { ids, actions: ids.map(() => new Int32Array(0)), temperature: 1, versions: column.versions };
  };
}

/** Messages are rendered with the reader's own template; plain text is encoded again. */
function reread(
  reader: Tokenizer,
  owner: Tokenizer,
  ids: Int32Array,
  actions: Int32Array,
  batch: Batch,
  s: number,
): Int32Array {
  const messages = batch.rowOf(s).messages, start = actions[0] ?? ids.length;
  if (messages && reader.hasTemplate) {
    const content = owner.decode(ids.subarray(start), { skipSpecial: true });
    return reader.assistantMask([...messages, { role: "assistant", content }]).ids;
  }
  return reader.encode(owner.decode(ids, { skipSpecial: true }));
}
