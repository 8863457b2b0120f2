/** `baton score`: log-probabilities of given texts or token ids. */
import type { JsonObject } from "../engine/files.ts";
import { readRows, RowError } from "../engine/rows.ts";
import type { ScoreItem } from "../run/standalone.ts";
import { runner } from "./api.ts";
import { command, UsageError } from "./command.ts";
import { modelOptions, PRECISION, THREADS } from "./options.ts";

export const score = command({
  name: "score",
  summary: "log-probabilities of given texts under a model",
  usage: "MODEL --input FILE.jsonl [options]",
  positional: 1,
  about: [
    'Every line of FILE is {"text":"…"} or {"tokens":[…]}; every result is one line, in the same order:',
    '{"tokens":[…],"logprobs":[…],"sum":…} where logprobs[i] = log p(tokens[i+1] | tokens[0..i]), in nats, so the first',
    "token has none. Token ids need no tokenizer.",
  ].join("\n"),
  options: {
    input: { kind: "string", value: "FILE.jsonl", help: "what to score; - reads stdin" },
    ...THREADS,
    precision: {
      ...PRECISION.precision,
      help: "what the model and its activations are stored in; fp32 by default",
    },
    json: { kind: "flag", help: "lines of JSON only, without the count on stderr" },
  },
  examples: [
    ["baton score ./model --input texts.jsonl > scores.jsonl", "a file of texts"],
    ["echo '{\"tokens\":[1,5,9]}' | baton score ./model --input -", "one sequence of ids"],
  ],
  run: async ({ positional, values }, io) => {
    if (values.input === undefined) {
      throw new UsageError("Cannot run baton score: --input is needed, as --input=FILE.jsonl");
    }
    const input = values.input === "-" ? "/dev/stdin" : values.input;
    const { values: items } = await readRows(input, toItem);
    const options = modelOptions(values);
    let scored = 0;
    for await (const { tokens, logprobs, sum } of (await runner()).score(positional[0]!, items, options)) {
      io.out(JSON.stringify({ tokens, logprobs, sum }));
      scored += logprobs.length;
    }
    if (!values.json) io.err(`${items.length} sequences, ${scored} tokens scored`);
    return 0;
  },
});

/** One line as an item. Throws a RowError that says what is wrong with it. */
export function toItem(line: JsonObject): ScoreItem {
  const { text, tokens } = line;
  if ((text === undefined) === (tokens === undefined)) {
    throw new RowError('needs one of "text" and "tokens"');
  }
  if (typeof text === "string") return { text };
  if (text !== undefined) throw new RowError('"text" is no string');
  if (!Array.isArray(tokens)) throw new RowError('"tokens" is no list');
  const wrong = tokens.find((id) => !Number.isInteger(id) || id < 0);
  if (wrong !== undefined) {
    throw new RowError(`"tokens" holds ${JSON.stringify(wrong)}, which is no token id`);
  }
  return { tokens };
}
