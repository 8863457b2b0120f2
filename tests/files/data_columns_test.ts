import assert from "node:assert/strict";
import { byOwnNames, COLUMNS } from "../../engine/columns.ts";
import { loadData } from "../../engine/data.ts";
import type { Sample } from "../../engine/sample.ts";
import { type ActionTokens, Tokenizer } from "../../engine/tokenizer.ts";
import { mathVerifier, tokenIds } from "../../mod.ts";
import type { SourceSpec } from "../../ir/graph.ts";
import { SHARED, sharedTest, withFolder } from "./shared.ts";

const CASES = new URL("../golden/cases/", import.meta.url).pathname;
const tokenizers = {
  chat: await Tokenizer.load(`${CASES}tokenizers/bytes/`),
  plain: await Tokenizer.load(`${CASES}tokenizers/pieces/`),
};
const text = { per: "sequence", dtype: "text" } as const, number = { per: "sequence", dtype: "f32" } as const;

/** Loads a file, or these rows as one. */
async function load(
  kind: SourceSpec["kind"],
  data: string | readonly unknown[],
  change: Partial<SourceSpec> & { readonly with?: keyof typeof tokenizers; readonly maxTokens?: number } = {},
) {
  const { with: which = "chat", maxTokens = 100_000, ...source } = change, tokenizer = tokenizers[which];
  const read = (path: string) =>
    loadData({ kind, path, batch: 1, fields: {}, shuffle: false, heldOut: 0, ...source }, {
      seed: 1,
      tokenizer,
      vocabulary: tokenizer.size,
      maxTokens,
    });
  if (typeof data === "string") return await read(data);
  let set: Awaited<ReturnType<typeof loadData>>;
  await withFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/data.json`, JSON.stringify(data));
    set = await read(`${folder}/data.json`);
  });
  return set!;
}
const shown = (ids: ArrayLike<number>, which: keyof typeof tokenizers = "chat") =>
  tokenizers[which].decode(ids, { skipSpecial: false });
const said = (tokens: Sample["tokens"], which: keyof typeof tokenizers = "chat") =>
  shown(Array.from(tokens!.actions, (i) => tokens!.ids[i]!), which);
const of = async (kind: SourceSpec["kind"], row: unknown, change: Parameters<typeof load>[2] = {}) =>
  (await load(kind, [row], change)).training[0]!;

const chat = (...turns: string[]) => turns.map((value, i) => ({ from: i % 2 ? "gpt" : "human", value }));

Deno.test("loadData() knows the columns of public data sets: prompts", async () => {
  for (const name of COLUMNS["prompt"]!) {
    assert.equal((await of("prompts", { [name]: "two" })).prompt!.text, "two");
  }
  const alpaca = await of("prompts", { instruction: "Sum up", input: "a b", output: "x" });
  assert.equal(alpaca.prompt!.text, "Sum up\n\na b");
  assert.equal((await of("prompts", { instruction: "Say", input: "", output: "x" })).prompt!.text, "Say");
  const fields = { answer: text, label: number };
  const verl = {
    prompt: [{ role: "user", content: "2?" }],
    reward_model: { ground_truth: "2" },
    label: true,
  };
  assert.deepEqual((await of("prompts", verl, { fields })).fields, { answer: "2", label: 1 });
  const spoken = await of("prompts", { question: "2?", system: "Be brief" }, { chat: true });
  assert.deepEqual(spoken.messages, [{ role: "system", content: "Be brief" }, {
    role: "user",
    content: "2?",
  }]);
  assert.equal((await of("prompts", { question: "2?", system: "Be brief" })).prompt!.text, "Be brief\n\n2?");
});

Deno.test("loadData() knows the columns of public data sets: conversations", async () => {
  for (const name of COLUMNS["completion"]!) {
    assert.equal(said((await of("conversations", { question: "2?", [name]: " 2" })).tokens), " 2<|end|>");
  }
  for (const name of COLUMNS["messages"]!) {
    const row = { [name]: chat("hi", "yes"), question: "hi", answer: "no" };
    assert.equal(said((await of("conversations", row)).tokens), "yes<|stop|>", name);
  }
  assert.equal(said((await of("conversations", { content: "go" })).tokens), "go<|end|>");
  const parts = [{ role: "user", content: [{ type: "text", text: "a" }, { type: "text", text: "b" }] }];
  const row = { messages: [...parts, { role: "assistant", content: "c", tool_calls: null }] };
  assert.match(shown((await of("conversations", row)).tokens!.ids), /<\|user\|>\nab<\|stop\|>/);
  const asked = await of("conversations", { problem: "2?", solution: "2" }, { chat: true });
  assert.equal(said(asked.tokens), "2<|stop|>");
  assert.match(shown(asked.tokens!.ids), /<\|user\|>\n2\?<\|stop\|>/);
});

Deno.test("loadData() knows the columns of public data sets: pairs", async () => {
  const user = { role: "user", content: "hi" }, say = (content: string) => ({ role: "assistant", content });
  const rows: readonly [string, unknown][] = [
    ["two texts", { question: "hi", response_j: "yes", response_k: "no" }],
    ["whole conversations beside the prompt as a text", {
      prompt: "hi",
      chosen: [user, say("yes")],
      rejected: [user, say("no")],
    }],
    ["answers as messages", { prompt: "hi", chosen: [say("yes")], rejected: [say("no")] }],
    ["turns and two answers", {
      conversations: chat("hi"),
      chosen: chat("", "yes")[1],
      rejected: chat("", "no")[1],
    }],
    ["transcripts", {
      chosen: "\n\nHuman: hi\n\nAssistant: yes",
      rejected: "\n\nHuman: hi\n\nAssistant: no",
    }],
  ];
  for (const [name, row] of rows) {
    const { tokens, rejected } = await of("pairs", row, { chat: true });
    assert.deepEqual([said(tokens), said(rejected)], ["yes<|stop|>", "no<|stop|>"], name);
    assert.match(shown(tokens!.ids), /<\|user\|>\nhi<\|stop\|>/, name);
  }
  const { tokens, rejected } = await of("pairs", rows.at(-1)![1], { with: "plain" });
  assert.equal(tokenizers.plain.hasTemplate, false);
  assert.equal(tokenizers.plain.decode(tokens!.ids).trim(), "Human: hi\n\nAssistant: yes");
  assert.match(said(rejected, "plain"), /^ ?no/);
});

Deno.test("loadData() takes the script's word for columns, before its own names", async () => {
  const row = { prompt: "no", q: { text: "yes" }, "a.b": "dotted", answer: "no", answers: { short: "1" } };
  const sample = await of("prompts", row, {
    fields: { answer: text, note: text },
    columns: { prompt: "q.text", answer: "answers.short", note: "a.b" },
  });
  assert.equal(sample.prompt!.text, "yes");
  assert.deepEqual(sample.fields, { answer: "1", note: "dotted" });
  assert.deepEqual(byOwnNames({ prompt: "x" }, "prompts", { prompt: "gone" }), {});
  await assert.rejects(of("prompts", row, { columns: { prompt: "gone" } }), /it has none of "prompt"/);
});

Deno.test("loadData() leaves out long rows where the source says so, and counts them", async () => {
  const rows = [{ prompt: "a" }, { prompt: "a".repeat(50) }, { prompt: "b" }];
  const { training, skipped } = await load("prompts", rows, { longRows: "skip", maxTokens: 20 });
  assert.deepEqual([training.map((s) => s.index), skipped], [[0, 2], 1]);
  await assert.rejects(load("prompts", rows, { maxTokens: 20 }), /row 2: prompt: .* at most 20 fit/);
  await assert.rejects(
    load("prompts", rows.slice(1, 2), { longRows: "skip", maxTokens: 20 }),
    /Cannot read data: all 1 rows of .* are longer than 20 tokens/,
  );
});

Deno.test("docs/data.md shows the table of column names", async () => {
  const page = await Deno.readTextFile(new URL("../../docs/data.md", import.meta.url));
  const table = Object.fromEntries(
    [...page.split("\n## ").find((part) => part.startsWith("Column names"))!.matchAll(
      /^\| `(\w+)` +\| (`.*?`) +\|/gm,
    )].map((
      [, name, names],
    ) => [name, [...names!.matchAll(/`([\w.]+)`/g)].map((m) => m[1])]),
  );
  assert.deepEqual(table, COLUMNS);
});

sharedTest(
  "GSM8K loads, and its verifier scores every reference answer as right",
  "data/gsm8k/test.jsonl",
  async () => {
    for (const [file, count] of [["test.jsonl", 1319], ["train_first2000.jsonl", 2000]] as const) {
      const path = `${SHARED}data/gsm8k/${file}`, fields = { answer: text };
      const { training } = await load("prompts", path, { fields, chat: true });
      assert.equal(training.length, count);
      for (const { fields, messages } of training) {
        const answer = fields["answer"] as string, final = answer.split("####")[1]!.trim();
        assert.equal(mathVerifier({ response: answer, answer: final }), 1);
        assert.equal(mathVerifier({ response: `It is ${final}.`, answer }), 1);
        assert.equal(mathVerifier({ response: `It is ${final}0001.`, answer }), 0, answer);
        assert.equal(messages!.length, 1);
      }
    }
  },
);

sharedTest(
  "preference pairs, KTO labels and hh-rlhf load as they were published",
  "data/preferences",
  async () => {
    const dpo = await load("pairs", `${SHARED}data/preferences/dpo_en_demo.json`);
    assert.equal(dpo.training.length, 299);
    assert.ok(dpo.training.every((s) => said(s.tokens).endsWith("<|stop|>")));
    const kto = await load("conversations", `${SHARED}data/preferences/kto_en_demo.json`, {
      fields: { label: number },
    });
    assert.deepEqual([kto.training.length, new Set(kto.training.map((s) => s.fields["label"]))], [
      300,
      new Set([1, 0]),
    ]);
    const hh = `${SHARED}data/hh_rlhf/harmless-base_test.jsonl.gz`;
    assert.equal((await load("pairs", hh)).training.length, 2312);
  },
);

Deno.test("loadData() cuts conversations and pairs behind their first tokens where the source says so", async () => {
  const ids = (n: number) => Array.from({ length: n }, (_, i) => i + 1);
  const rows = [
    { tokens: ids(12) },
    { tokens: ids(30), mask: ids(30).map((i) => Number(i > 15)) },
    { tokens: ids(30), mask: ids(30).map((i) => Number(i > 25)) },
  ];
  const o = { longRows: "truncate", maxTokens: 20 } as const;
  const { training, skipped } = await load("conversations", rows, o);
  assert.deepEqual(training.map((s) => [...s.tokens!.ids]), [ids(12), ids(20)]);
  assert.deepEqual([...training[1]!.tokens!.actions], [15, 16, 17, 18, 19]);
  assert.equal(skipped, 1, "one keeps no action");
  const pairs = await load("pairs", [{ prompt: ids(15), chosen: ids(9), rejected: ids(3) }], o);
  const { tokens, rejected } = pairs.training[0]!;
  assert.deepEqual([tokens!.ids.length, rejected!.ids.length, rejected!.actions.length], [20, 18, 3]);
  const prompts = await load("prompts", [{ prompt: "a" }, { prompt: "a".repeat(50) }], o);
  assert.equal(prompts.skipped, 1, "a prompt is not cut");
});

Deno.test("a column of token ids holds a list, or a conversation with its own actions", async () => {
  const fields = { other: tokenIds };
  const columnOf = async (other: unknown) =>
    (await of("prompts", { prompt: "a", other }, { fields })).fields.other as ActionTokens;
  assert.deepEqual([...(await columnOf([5, 6, 7])).actions], [1, 2]);
  assert.deepEqual([...(await columnOf({ tokens: [5, 6, 7], mask: [0, 0, 1] })).actions], [2]);
  assert.deepEqual([...(await columnOf({ prompt: [5, 6], completion: [7, 8] })).actions], [2, 3]);
  const texts = await columnOf({ prompt: "hi", completion: " yes" });
  assert.match(said(texts), /^ ?yes/);
  await assert.rejects(
    columnOf({ tokens: [5, 6], mask: [0, 0] }),
    /other: no token of it is the model's own/,
  );
  await assert.rejects(columnOf("text"), /"other" must be a list of token ids or a conversation/);
});
