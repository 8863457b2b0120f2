/** `baton generate`: one completion of one prompt. */
import type { GenerateOptions } from "../run/standalone.ts";
import { runner } from "./api.ts";
import { command, UsageError } from "./command.ts";
import { modelOptions, PRECISION, THREADS } from "./options.ts";

export const generate = command({
  name: "generate",
  summary: "complete a prompt with a model",
  usage: "MODEL (--prompt TEXT | --tokens IDS) [options]",
  positional: 1,
  about: [
    "MODEL is a folder in Hugging Face's layout: config.json, *.safetensors and, for text, tokenizer.json.",
    'Prints {"tokens":[…],"text":"…","logprobs":[…]}: the response without the prompt, and the log-probability of each',
    "of its tokens. The same seed gives the same tokens on every machine.",
  ].join("\n"),
  options: {
    prompt: { kind: "string", value: "TEXT", help: "prompt as text" },
    tokens: { kind: "string", value: "1,5,9", help: "prompt as token ids; needs no tokenizer" },
    "max-new-tokens": {
      kind: "number",
      value: "N",
      help: "most tokens of the response",
      default: 128,
      integer: true,
      min: 1,
    },
    temperature: { kind: "number", value: "T", help: "0 takes the likeliest token", default: 1, min: 0 },
    "top-p": {
      kind: "number",
      value: "P",
      help: "sample from the likeliest tokens of mass P",
      default: 1,
      min: 0,
      max: 1,
    },
    seed: {
      kind: "number",
      value: "S",
      help: "what the sampling starts from",
      default: 0,
      integer: true,
      min: 0,
    },
    "ignore-eos": { kind: "flag", help: "go on after stop tokens, to --max-new-tokens" },
    ...THREADS,
    precision: {
      ...PRECISION.precision,
      help: "what the model and its activations are stored in; fp32 by default",
    },
    json: { kind: "flag", help: "the line of JSON only, without the text on stderr" },
  },
  examples: [
    ['baton generate ./model --prompt "Once upon a time" --temperature 0', "the likeliest continuation"],
    [
      "baton generate ./model --tokens 1,5,9 --max-new-tokens 16 --seed 7 --json",
      "token ids in, token ids out",
    ],
  ],
  run: async ({ positional, values }, io) => {
    const { prompt, tokens } = values;
    if ((prompt === undefined) === (tokens === undefined)) {
      throw new UsageError(
        "Cannot run baton generate: give the prompt either as --prompt TEXT or as --tokens 1,5,9",
      );
    }
    const options: GenerateOptions = {
      ...(tokens === undefined ? { prompt: prompt! } : { tokens: tokenIds(tokens) }),
      maxNewTokens: values["max-new-tokens"],
      temperature: values.temperature,
      topP: values["top-p"],
      seed: values.seed,
      ignoreEos: values["ignore-eos"],
      ...modelOptions(values),
    };
    const result = await (await runner()).generate(positional[0]!, options);
    io.out(JSON.stringify({ tokens: result.tokens, text: result.text, logprobs: result.logprobs }));
    if (!values.json) io.err(result.text);
    return 0;
  },
});

/** "1,5,9" → [1, 5, 9]. */
export function tokenIds(list: string): number[] {
  const parts = list.split(",").map((part) => part.trim());
  const bad = parts.filter((part) => !/^\d+$/.test(part));
  if (bad.length) {
    throw new UsageError(
      `Cannot run baton generate: --tokens has ${
        bad.map((part) => `"${part}"`).join(", ")
      }, give ids as 1,5,9`,
    );
  }
  return parts.map(Number);
}
