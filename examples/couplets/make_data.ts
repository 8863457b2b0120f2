/**
 * Writes the data of the couplets: `deno run -A examples/couplets/make_data.ts`, or with `--preview 20` prints couplets
 * and pairs instead. The same version writes the same bytes on every machine.
 *
 * In data/: sft.jsonl {prompt, completion}, pairs.jsonl {prompt, chosen, rejected}, prompts.jsonl and heldout.jsonl
 * {prompt}, tokenizer.json and tokenizer_config.json. Held-out prompts occur in no other file; responses and prompts are
 * tokenized as they stand and joined, and a response is followed by the stop token, which no file contains.
 */
import { type Pair, pair } from "./pairs.ts";
import { random } from "./random.ts";
import { judge } from "./rhyme.ts";
import { tokenizerConfig, trainTokenizer } from "./tokenizer.ts";
import { asPrompt, asResponse, firstLine, type Line, secondLine } from "./verses.ts";

const SEED = 1;
const VOCABULARY = 1024;
const COUNTS = { heldout: 512, prompts: 8192, sft: 24000, pairs: 20000 } as const;

/** Parts of 1000 of the couplets to imitate that rhyme: enough to learn what a rhyme is, too few to make it a habit. */
const RHYMING = 400;

/** A couplet to imitate. */
export interface Example {
  readonly prompt: string;
  readonly completion: string;
}

/** First lines in the order of their index, those that `taken` holds left out; with `once`, each only once. */
function firstLines(purpose: string, count: number, taken: Set<string>, once: boolean): readonly Line[] {
  const lines: Line[] = [];
  for (let index = 0; lines.length < count; index++) {
    const line = firstLine(random(SEED, `first line of ${purpose}`, index));
    const prompt = asPrompt(line);
    if (taken.has(prompt)) continue;
    if (once) taken.add(prompt);
    lines.push(line);
  }
  return lines;
}

/** All records, of files that are written and of a test that reads them. */
export function makeData(): {
  readonly heldout: readonly { readonly prompt: string }[];
  readonly prompts: readonly { readonly prompt: string }[];
  readonly sft: readonly Example[];
  readonly pairs: readonly Pair[];
} {
  const heldoutPrompts = new Set<string>();
  const heldout = firstLines("heldout", COUNTS.heldout, heldoutPrompts, true);
  const prompts = firstLines("prompts", COUNTS.prompts, new Set(heldoutPrompts), true);
  const sft = firstLines("sft", COUNTS.sft, heldoutPrompts, false).map((first, index) => {
    const draw = random(SEED, "second line of sft", index);
    return { prompt: asPrompt(first), completion: asResponse(secondLine(first, draw(1000) < RHYMING, draw)) };
  });
  const pairs = firstLines("pairs", COUNTS.pairs, heldoutPrompts, false).map((first, index) =>
    pair(first, random(SEED, "pair", index))
  );
  const prompt = (line: Line) => ({ prompt: asPrompt(line) });
  return { heldout: heldout.map(prompt), prompts: prompts.map(prompt), sft, pairs };
}

function preview(count: number): void {
  for (let index = 0; index < count; index++) {
    const draw = random(SEED, "preview", index);
    const first = firstLine(draw);
    const response = asResponse(secondLine(first, draw(1000) < RHYMING, draw));
    console.log(`${judge(asPrompt(first), response).rhymes ? "♪ " : "  "}${asPrompt(first)}  ${response}\n`);
  }
  for (let index = 0; index < count; index++) {
    const draw = random(SEED, "preview pair", index);
    const { prompt, chosen, rejected } = pair(firstLine(draw), draw);
    console.log(`  ${prompt}+ ${chosen}\n− ${rejected}\n`);
  }
}

if (import.meta.main) {
  const at = Deno.args.indexOf("--preview");
  if (at >= 0) preview(Number(Deno.args[at + 1] ?? 20));
  else {
    const folder = new URL("data/", import.meta.url);
    const data = makeData();
    for (const [name, records] of Object.entries(data)) {
      const text = records.map((record) => `${JSON.stringify(record)}\n`).join("");
      await Deno.writeTextFile(new URL(`${name}.jsonl`, folder), text);
      console.log(`${name}.jsonl: ${records.length} records`);
    }
    const texts = data.sft.map(({ prompt, completion }) => prompt + completion);
    const tokenizer = trainTokenizer(texts, VOCABULARY);
    await Deno.writeTextFile(new URL("tokenizer.json", folder), `${JSON.stringify(tokenizer, null, 2)}\n`);
    await Deno.writeTextFile(
      new URL("tokenizer_config.json", folder),
      `${JSON.stringify(tokenizerConfig, null, 2)}\n`,
    );
    console.log(`tokenizer.json: ${VOCABULARY} tokens`);
  }
}
