import assert from "node:assert/strict";
import { loadData } from "../../engine/data.ts";
import type { Sample } from "../../engine/sample.ts";
import { Tokenizer } from "../../engine/tokenizer.ts";
import type { SourceSpec } from "../../ir/graph.ts";
import { withFolder } from "./shared.ts";

const tokenizer = await Tokenizer.load(
  new URL("../golden/cases/tokenizers/bytes/", import.meta.url).pathname,
);
const number = { per: "sequence", dtype: "f32" } as const, text = { per: "sequence", dtype: "text" } as const;

/** Loads these lines (values, or text as it is) as a file. */
async function load(
  kind: SourceSpec["kind"],
  lines: readonly unknown[],
  change: Partial<SourceSpec> & {
    readonly maxTokens?: number;
    readonly noTokenizer?: boolean;
    readonly path?: string;
  } = {},
): Promise<readonly Sample[]> {
  let samples: readonly Sample[] = [];
  await withFolder(async (folder) => {
    const path = change.path ?? `${folder}/data.jsonl`;
    await Deno.writeTextFile(
      `${folder}/data.jsonl`,
      lines.map((line) => typeof line === "string" ? line : JSON.stringify(line)).join("\n"),
    );
    const source: SourceSpec = { kind, path, batch: 2, fields: {}, shuffle: false, heldOut: 0, ...change };
    const data = await loadData({ ...source, path }, {
      seed: 1,
      tokenizer: change.noTokenizer ? null : tokenizer,
      vocabulary: 485,
      maxTokens: change.maxTokens ?? 100,
    });
    samples = data.training;
  });
  return samples;
}

const decode = (ids: ArrayLike<number>) => tokenizer.decode(ids, { skipSpecial: false });
const actionText = (tokens: Sample["tokens"]) => decode(Array.from(tokens!.actions, (i) => tokens!.ids[i]!));

Deno.test("loadData() reads prompts as text, messages and token ids", async () => {
  const user = [{ role: "user", content: "hi" }];
  const samples = await load("prompts", [
    { prompt: "hello" },
    { messages: user },
    { prompt: user },
    { tokens: [5, 6] },
    { prompt: [7] },
  ]);
  assert.deepEqual(samples.map((s) => decode(s.prompt!.ids)), [
    "<|begin|>hello",
    "<|begin|><|user|>\nhi<|stop|>\n<|assistant|>\n",
    "<|begin|><|user|>\nhi<|stop|>\n<|assistant|>\n",
    decode([5, 6]),
    decode([7]),
  ]);
  assert.deepEqual(samples[1]!.messages, user);
  assert.equal(samples[1]!.prompt!.text, "<|begin|><|user|>\nhi<|stop|>\n<|assistant|>\n");
  assert.deepEqual(samples.map((s) => s.index), [0, 1, 2, 3, 4]);
});

Deno.test("loadData() keeps declared fields and nothing else", async () => {
  const samples = await load("prompts", [{ prompt: "a", answer: "b", level: 2.5, other: [1] }], {
    fields: { prompt: text, answer: text, level: number },
  });
  assert.deepEqual(samples[0]!.fields, { answer: "b", level: 2.5 });
});

Deno.test("loadData() marks the actions of conversations", async () => {
  const messages = [{ role: "user", content: "hi" }, { role: "assistant", content: "yes" }];
  const samples = await load("conversations", [
    { text: "the step" },
    { messages },
    { prompt: "the", completion: " step" },
    { prompt: messages.slice(0, 1), completion: "no" },
    {
      prompt: messages,
      completion: [{ role: "user", content: "so" }, { role: "assistant", content: "fine" }],
    },
    { tokens: [4, 5, 6] },
    { tokens: [4, 5, 6], mask: [1, 0, 1] },
    { prompt: [4, 5], completion: [6, 7] },
    { prompt: "the", completion: " end<|stop|>" },
  ]);
  assert.deepEqual(samples.slice(0, 5).map((s) => actionText(s.tokens)), [
    "the step<|end|>",
    "yes<|stop|>",
    " step<|end|>",
    "no<|stop|>",
    "fine<|stop|>",
  ]);
  assert.deepEqual(samples.slice(5, 8).map((s) => [...s.tokens!.actions]), [[1, 2], [2], [2, 3]]);
  assert.equal(actionText(samples[8]!.tokens), " end<|stop|>", "no second end after a stop token");
  assert.ok(samples.every((s) => s.tokens!.actions[0]! > 0));
});

Deno.test("loadData() reads pairs, with a prompt or as messages that begin alike", async () => {
  const user = { role: "user", content: "hi" }, say = (content: string) => ({ role: "assistant", content });
  const samples = await load("pairs", [
    { prompt: "I", chosen: " can", rejected: " cannot" },
    { prompt: [user], chosen: "yes", rejected: "no" },
    { chosen: [user, say("a"), user, say("yes")], rejected: [user, say("a"), user, say("no")] },
    { prompt: [1, 2], chosen: [3], rejected: [4, 5] },
  ]);
  assert.deepEqual(samples.slice(0, 3).map((s) => [actionText(s.tokens), actionText(s.rejected)]), [
    [" can<|end|>", " cannot<|end|>"],
    ["yes<|stop|>", "no<|stop|>"],
    ["yes<|stop|>", "no<|stop|>"],
  ]);
  assert.deepEqual([[...samples[3]!.tokens!.actions], [...samples[3]!.rejected!.actions]], [[2], [2, 3]]);
});

Deno.test("loadData() names file and line of what is wrong", async () => {
  const cases: [SourceSpec["kind"], unknown, RegExp][] = [
    ["prompts", "{broken", /data\.jsonl:2: not valid JSON/],
    ["prompts", [1], /:2: not a JSON object/],
    ["prompts", { ask: "x" }, /:2: it has none of "prompt", "messages" and "tokens"/],
    ["prompts", { prompt: 5 }, /:2: "prompt" must be a list of \{ role, content \}/],
    ["prompts", { messages: [{ role: "user" }] }, /:2: "prompt" must be a list/],
    [
      "prompts",
      { messages: [{ role: "assistant", content: "x" }] },
      /:2: the last message of a prompt is the assistant's/,
    ],
    ["prompts", { tokens: [485] }, /:2: prompt: token id 485 is outside the vocabulary of 485/],
    ["prompts", { tokens: [-1] }, /:2: prompt: token id -1/],
    ["prompts", { tokens: Array(101).fill(1) }, /:2: prompt: 101 tokens, at most 100 fit/],
    ["prompts", { prompt: "<|begin|>x" }, /:2: Cannot encode a text: the text begins with <\|begin\|>/],
    ["conversations", { prompt: "x" }, /:2: it has none of "text", "messages"/],
    [
      "conversations",
      { messages: [{ role: "user", content: "x" }] },
      /:2: conversation: no token of it is the model's own/,
    ],
    ["conversations", { tokens: [1, 2], mask: [1] }, /:2: "mask" must hold a 0 or 1 for every token/],
    ["conversations", { tokens: [1] }, /:2: conversation: no token of it is the model's own/],
    ["conversations", { prompt: "x", completion: [1] }, /:2: "prompt" and "completion" differ in form/],
    ["pairs", { prompt: "x", chosen: "y" }, /:2: it lacks "chosen" or "rejected"/],
    ["pairs", { chosen: "x", rejected: "y" }, /:2: "chosen" must be a list/],
    [
      "pairs",
      { prompt: [1], chosen: [2], rejected: Array(100).fill(3) },
      /:2: rejected: 101 tokens, at most 100 fit/,
    ],
  ];
  const good = {
    prompts: { tokens: [1] },
    conversations: { tokens: [1, 2] },
    pairs: { prompt: [1], chosen: [2], rejected: [3] },
  };
  for (const [kind, line, message] of cases) {
    await assert.rejects(load(kind, [good[kind], line]), (error: Error) => {
      assert.match(error.message, message);
      assert.ok(
        error.message.startsWith("Cannot read data: ") && !error.message.includes("\n"),
        error.message,
      );
      return true;
    });
  }
  const fields = { answer: text, level: number };
  await assert.rejects(
    load("prompts", [{ tokens: [1], level: 1 }], { fields }),
    /:1: field "answer" is missing/,
  );
  await assert.rejects(
    load("prompts", [{ tokens: [1], answer: "a", level: "1" }], { fields }),
    /:1: field "level" must be a finite number/,
  );
  await assert.rejects(
    load("prompts", [{ tokens: [1], answer: 1, level: 1 }], { fields }),
    /:1: field "answer" must be a text/,
  );
  await assert.rejects(
    load("prompts", [{ prompt: "x" }], { noTokenizer: true }),
    /:1: it holds text and the model has no tokenizer/,
  );
});

Deno.test("loadData() lists several bad lines, and says when there is no file or no line", async () => {
  const lines = [...Array(7).fill({ prompt: 5 }), "", { tokens: [1] }];
  await assert.rejects(load("prompts", lines), (error: Error) => {
    assert.equal(error.message.match(/data\.jsonl:\d+:/g)?.length, 5);
    assert.match(error.message, /and 2 more lines, repair or remove what is named$/);
    return true;
  });
  await assert.rejects(load("prompts", ["", "  "]), /Cannot read data: .* holds no line/);
  await assert.rejects(
    load("prompts", [], { path: "/nowhere.jsonl" }),
    /Cannot read data: there is no file \/nowhere\.jsonl/,
  );
});

Deno.test("loadData() reads compressed files and lines that are cut anywhere between reads", async () => {
  await withFolder(async (folder) => {
    const lines = Array.from(
      { length: 3000 },
      (_, i) => ({ tokens: [1 + i % 400, 2], note: "é".repeat(i % 90) }),
    );
    const packed = new Blob([lines.map((l) => JSON.stringify(l)).join("\n")]).stream().pipeThrough(
      new CompressionStream("gzip"),
    );
    await Deno.writeFile(`${folder}/data.jsonl.gz`, packed);
    const data = await loadData(
      {
        kind: "prompts",
        path: `${folder}/data.jsonl.gz`,
        batch: 1,
        fields: { note: text },
        shuffle: false,
        heldOut: 0.1,
      },
      { seed: 1, tokenizer: null, vocabulary: 485, maxTokens: 10 },
    );
    assert.equal(data.heldOut.length, 300);
    const all = [...data.training, ...data.heldOut].sort((a, b) => a.index - b.index);
    assert.deepEqual(
      all.map((s) => [s.prompt!.ids[0], s.fields["note"]]),
      lines.map((l) => [l.tokens[0], l.note]),
    );
    assert.match(data.digest, /^[0-9a-f]{64}$/);
  });
});
