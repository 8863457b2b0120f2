/** Writes transcripts to imitate and sums to ask: `deno run -A examples/calculator/make_data.ts`. The same bytes on every machine. */
import { SPECIAL } from "../couplets/tokenizer.ts";
import { question, sums, transcripts } from "./task.ts";

/** By name of the file. */
export const records = {
  transcripts: transcripts(SPECIAL.end),
  sums: sums.map((sum) => ({ prompt: question(sum), answer: `${sum.a + sum.b}` })),
};

if (import.meta.main) {
  for (const [name, rows] of Object.entries(records)) {
    const text = rows.map((row) => JSON.stringify(row) + "\n").join("");
    await Deno.writeTextFile(new URL(`${name}.jsonl`, import.meta.url), text);
  }
}
