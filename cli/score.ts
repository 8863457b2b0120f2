/** `baton score`: log-probabilities of given texts or token ids. */
import { runner, type ScoreItem } from "./api.ts";
import { command, UsageError } from "./command.ts";

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
    let count = 0;
    let tokens = 0;
    for await (const scored of (await runner()).score(positional[0]!, readItems(values.input))) {
      io.out(JSON.stringify({ tokens: scored.tokens, logprobs: scored.logprobs, sum: scored.sum }));
      count++;
      tokens += scored.logprobs.length;
    }
    if (!values.json) io.err(`${count} sequences, ${tokens} tokens scored`);
    return 0;
  },
});

/** The items of a JSONL file, line by line: a file of any size takes no memory. */
async function* readItems(path: string): AsyncGenerator<ScoreItem> {
  let number = 0;
  for await (const line of readLines(path)) {
    number++;
    if (line.trim() !== "") yield parseItem(line, `${path}:${number}`);
  }
  if (number === 0) throw new Error(`Cannot score ${path}: it is empty, give one JSON object per line`);
}

async function* readLines(path: string): AsyncGenerator<string> {
  const open = async (): Promise<ReadableStream<Uint8Array<ArrayBuffer>>> => {
    if (path === "-") return Deno.stdin.readable;
    try {
      return (await Deno.open(path)).readable;
    } catch (error) {
      const why = error instanceof Deno.errors.NotFound ? "there is no such file" : (error as Error).message;
      throw new Error(`Cannot score ${path}: ${why}`);
    }
  };
  let rest = "";
  for await (const chunk of (await open()).pipeThrough(new TextDecoderStream())) {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop() ?? "";
    yield* lines;
  }
  if (rest !== "") yield rest;
}

/** One line as an item; `where` is "file:line" for the message. */
export function parseItem(line: string, where: string): ScoreItem {
  const bad = (what: string): Error =>
    new Error(`Cannot score ${where}: ${what}, a line is {"text":"…"} or {"tokens":[…]}`);
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw bad("it is not JSON");
  }
  if (typeof value !== "object" || value === null) throw bad("it is not an object");
  const { text, tokens } = value as { readonly text?: unknown; readonly tokens?: unknown };
  if ((text === undefined) === (tokens === undefined)) throw bad('it needs one of "text" and "tokens"');
  if (typeof text === "string") return { text };
  if (text !== undefined) throw bad('"text" is no string');
  if (!Array.isArray(tokens)) throw bad('"tokens" is no list');
  const wrong = tokens.find((id) => !Number.isInteger(id) || id < 0);
  if (wrong !== undefined) throw bad(`"tokens" holds ${JSON.stringify(wrong)}, which is no token id`);
  return { tokens };
}
