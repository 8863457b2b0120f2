import assert from "node:assert/strict";
import { pieces } from "../../engine/pieces.ts";
import { ChatTemplate } from "../../engine/template.ts";
import { type Message, Tokenizer } from "../../engine/tokenizer.ts";
import { SHARED, sharedTest, withFolder } from "./shared.ts";

const GOLDEN = new URL("../golden/cases/tokenizers/", import.meta.url).pathname;
const bytes = await Tokenizer.load(`${GOLDEN}bytes`);
const words = await Tokenizer.load(`${GOLDEN}pieces`);

interface Golden {
  readonly text: string;
  readonly ids: number[];
  readonly withBos: number[];
  readonly decoded: string;
  readonly plain: string;
}

for (const [kind, tokenizer] of [["bytes", bytes], ["pieces", words]] as const) {
  const golden: Golden[] = JSON.parse(await Deno.readTextFile(`${GOLDEN}${kind}/golden.json`));
  Deno.test(`encode() and decode() agree with the Rust library (${kind})`, () => {
    assert.ok(golden.length >= 30);
    for (const { text, ids, withBos, decoded, plain } of golden) {
      assert.deepEqual([...tokenizer.encode(text, { bos: false })], ids, JSON.stringify(text));
      if (withBos[1] !== tokenizer.bosId) {
        assert.deepEqual([...tokenizer.encode(text)], withBos, JSON.stringify(text));
      }
      assert.equal(tokenizer.decode(ids, { skipSpecial: false }), decoded);
      assert.equal(tokenizer.decode(ids), plain);
    }
  });
  Deno.test(`pieces() joined are the text (${kind})`, () => {
    for (const { ids, decoded } of golden) assert.equal(pieces(tokenizer, ids).join(""), decoded);
  });
}

Deno.test("encode() adds the BOS token once and says who adds it twice", () => {
  assert.equal(bytes.addsBos, true);
  assert.deepEqual([...bytes.encode("", {})], [bytes.bosId]);
  const long = bytes.encode("ab".repeat(100_000));
  assert.ok(
    long[0] === bytes.bosId && long.length > 130_000,
    `${long.length}: more than an argument list holds`,
  );
  assert.throws(
    () => bytes.encode("<|begin|>hello"),
    /begins with <\|begin\|> .*and the tokenizer of .* adds it again/,
  );
  assert.equal(bytes.encode("<|begin|>hello", { bos: false })[0], bytes.bosId);
});

Deno.test("decode() keeps the space that begins a continuation", () => {
  const prompt = words.encode("the actor"), whole = words.encode("the actor writes a response");
  const response = whole.subarray(prompt.length);
  assert.equal(words.decode(response), "writes a response");
  assert.equal(words.decode(response, { after: prompt }), " writes a response");
  assert.equal(words.decode([], { after: prompt }), "");
});

Deno.test("stopIds are those of all configurations and of the chat template", async () => {
  assert.deepEqual(bytes.endOfTurn, { text: "<|stop|>", id: 484 });
  assert.deepEqual(bytes.stopIds, [481, 484]);
  assert.deepEqual(words.stopIds, [2]);
  await withFolder(async (folder) => {
    for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
      await Deno.copyFile(`${GOLDEN}pieces/${name}`, `${folder}/${name}`);
    }
    await Deno.writeTextFile(`${folder}/generation_config.json`, '{"eos_token_id":[7,9]}');
    await Deno.writeTextFile(`${folder}/config.json`, '{"eos_token_id":8}');
    assert.deepEqual((await Tokenizer.load(folder)).stopIds, [2, 7, 8, 9]);
    await assert.rejects(
      Tokenizer.load(folder, { embeddingRows: 511 }),
      /its largest id is 511 and the model's embedding has 511 rows/,
    );
    await Tokenizer.load(folder, { embeddingRows: 512 });
  });
  await assert.rejects(
    Tokenizer.load("/nowhere"),
    /Cannot read the tokenizer of \/nowhere: there is no file/,
  );
});

const chat: readonly Message[] = [
  { role: "user", content: "Who writes?" },
  { role: "assistant", content: "The actor does." },
  { role: "user", content: "And reads?" },
  { role: "assistant", content: "\nThe critic." },
];
const marked = (tokenizer: Tokenizer, messages: readonly Message[], from = 0) => {
  const { ids, actions } = tokenizer.assistantMask(messages, { from });
  return tokenizer.decode(Array.from(actions, (i) => ids[i]!), { skipSpecial: false });
};

Deno.test("assistantMask() marks what the assistant writes, its end of turn included", () => {
  assert.equal(marked(bytes, chat), "The actor does.<|stop|>\nThe critic.<|stop|>");
  assert.equal(marked(bytes, chat, 2), "\nThe critic.<|stop|>");
  assert.equal(marked(bytes, chat.slice(0, 1)), "");
});

Deno.test("assistantMask() begins as the prompt that generation would continue", () => {
  const { ids, actions } = bytes.assistantMask(chat.slice(0, 2));
  const prompt = bytes.encodeChat(chat.slice(0, 1));
  assert.deepEqual(ids.subarray(0, prompt.length), prompt);
  assert.equal(actions[0], prompt.length);
});

Deno.test("assistantMask() keeps the text when the answer's first character merges with the prompt's last", () => {
  // "\n\n" is one token of this vocabulary only if it was learnt; either way the text must come out the same.
  const { ids } = bytes.assistantMask(chat);
  assert.equal(bytes.decode(ids, { skipSpecial: false }), bytes.render(chat));
});

Deno.test("assistantMask() refuses a stop token inside an answer", () => {
  const messages = [chat[0]!, { role: "assistant", content: "One<|stop|>two" }];
  assert.throws(
    () => bytes.assistantMask(messages),
    /Cannot use message 2 of 2: its text contains <\|stop\|>/,
  );
});

async function withTemplate(template: string, fn: (tokenizer: Tokenizer) => void): Promise<void> {
  await withFolder(async (folder) => {
    for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
      await Deno.copyFile(`${GOLDEN}bytes/${name}`, `${folder}/${name}`);
    }
    await Deno.writeTextFile(`${folder}/chat_template.jinja`, template);
    fn(await Tokenizer.load(folder));
  });
}

Deno.test("assistantMask() refuses a template that rewrites earlier turns", async () => {
  const last = "{% for m in messages %}{{ m.content if loop.last else 'x' }}<|stop|>{% endfor %}";
  await withTemplate(last, (tokenizer) => {
    assert.throws(
      () => tokenizer.assistantMask(chat),
      /Cannot locate the assistant's text: rendered up to message 2 of 4/,
    );
  });
});

Deno.test("assistantMask() finds turns that end without a special token", async () => {
  const plain =
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";
  await withTemplate(plain, (tokenizer) => {
    assert.equal(tokenizer.endOfTurn, null);
    assert.equal(marked(tokenizer, chat), "The actor does.\n\nThe critic.\n");
  });
});

Deno.test("a conversation with two BOS tokens is refused, and a template's own error is shown", async () => {
  const messages = [{ role: "user", content: "hi" }];
  await withTemplate("{{ bos_token }}{{ bos_token }}{{ messages[0].content }}", (tokenizer) => {
    assert.throws(() => tokenizer.encodeChat(messages), /both begin with <\|begin\|>/);
  });
  await withTemplate("{{ raise_exception('only poems') }}", (tokenizer) => {
    assert.throws(
      () => tokenizer.encodeChat(messages),
      /Cannot render a conversation .*chat_template\.jinja: only poems/,
    );
  });
  assert.throws(() => words.encodeChat(messages), /has no chat template, add chat_template\.jinja/);
});

Deno.test("ChatTemplate takes off the characters that a template names, as Python does, and white space otherwise", () => {
  const render = (expression: string) =>
    new ChatTemplate(`{% set x = messages[0].content %}[{{ ${expression} }}]`, {}, "test")
      .render([{ role: "user", content: "\n a\n-b- \n" }], false);
  assert.equal(render(String.raw`x.lstrip('\n')`), "[ a\n-b- \n]");
  assert.equal(render(String.raw`x.rstrip('\n')`), "[\n a\n-b- ]");
  assert.equal(render(String.raw`x.strip('\n ').split('-')[-1].strip('-') + x.strip('\n -')`), "[a\n-b]");
  assert.equal(render("x.strip()"), "[a\n-b-]");
  assert.equal(render("x.lstrip()"), "[a\n-b- \n]");
  assert.equal(render("x | trim"), "[a\n-b-]");
});

Deno.test("templateVariables reach the template", async () => {
  await withFolder(async (folder) => {
    await Deno.copyFile(`${GOLDEN}bytes/tokenizer.json`, `${folder}/tokenizer.json`);
    await Deno.writeTextFile(
      `${folder}/chat_template.jinja`,
      "{{ 'quick' if enable_thinking is false else 'slow' }}",
    );
    const load = (templateVariables: Record<string, unknown>) =>
      Tokenizer.load(folder, { templateVariables });
    assert.equal((await load({ enable_thinking: false })).render(chat), "quick");
    assert.equal((await load({})).render(chat), "slow");
  });
});

Deno.test("decode() passes over ids that only the embedding has", () => {
  const [a, b] = bytes.encode("ab", { bos: false });
  assert.equal(bytes.decode([a!, bytes.size + 7, b!]), bytes.decode([a!, b!]));
});

Deno.test("encodeParts() refuses a cut that the tokenizer cannot make", () => {
  const { ids, actions } = words.encodeParts([{ text: "the actor", action: false }, {
    text: " writes",
    action: true,
  }]);
  assert.deepEqual(ids, words.encode("the actor writes"));
  assert.equal(words.decode(ids.subarray(actions[0]!)), "writes");
  assert.throws(
    () => words.encodeParts([{ text: "see th", action: false }, { text: "e rest", action: true }]),
    /Cannot tell the tokens of "e rest" from those before/,
  );
});

const MODELS = ["gpt2", "llama3", "qwen2"];
for (const model of MODELS) {
  sharedTest(
    `encode() and decode() agree with the golden pairs of ${model}`,
    `tokenizers/${model}/tokenizer.json`,
    async () => {
      const tokenizer = await Tokenizer.load(`${SHARED}tokenizers/${model}`);
      const golden =
        JSON.parse(await Deno.readTextFile(`${SHARED}tokenizers/golden/llama_cpp_golden.json`))[model];
      assert.equal(golden.length, 46);
      for (const { text, ids } of golden) {
        assert.deepEqual([...tokenizer.encode(text, { bos: false })], ids, JSON.stringify(text));
        assert.equal(tokenizer.decode(ids, { skipSpecial: false }), text);
        assert.equal(pieces(tokenizer, ids).join(""), text);
      }
    },
  );
}

sharedTest(
  "encode() agrees with the longer golden texts",
  "tokenizers/golden/swift-transformers",
  async () => {
    const read = async (path: string) =>
      JSON.parse(await Deno.readTextFile(`${SHARED}tokenizers/golden/${path}`));
    for (const [model, file] of [["gpt2", "gpt2_encoded_tokens"], ["llama3", "llama_3.2_encoded"]] as const) {
      const { text, token_ids } = await read(`swift-transformers/${file}.json`);
      const tokenizer = await Tokenizer.load(`${SHARED}tokenizers/${model}`);
      const bos = token_ids[0] === tokenizer.bosId;
      assert.deepEqual([...tokenizer.encode(text, { bos })], token_ids, model);
    }
  },
);

sharedTest(
  "the tokenizer of stories260K encodes its prompts and decodes its stories",
  "models/stories260K",
  async () => {
    const folder = `${SHARED}models/stories260K`;
    const tokenizer = await Tokenizer.load(folder, { embeddingRows: 512 });
    for (
      const { prompt, prompt_ids, greedy_ids } of JSON.parse(
        await Deno.readTextFile(`${folder}/golden_generation.json`),
      )
    ) {
      assert.deepEqual([...tokenizer.encode(prompt)], prompt_ids);
      const text = tokenizer.decode(greedy_ids);
      assert.ok(text.startsWith(prompt));
    }
    assert.deepEqual(tokenizer.stopIds, [1, 2]);
  },
);

sharedTest(
  "every chat template renders, and a conversation begins with its own prompt",
  "tokenizers/chat_templates",
  async () => {
    const conversation = [{ role: "user", content: "Hi" }, { role: "assistant", content: "Hello" }];
    let count = 0;
    for await (const { name } of Deno.readDir(`${SHARED}tokenizers/chat_templates`)) {
      if (!name.endsWith(".jinja")) continue;
      count++;
      const source = await Deno.readTextFile(`${SHARED}tokenizers/chat_templates/${name}`);
      const template = new ChatTemplate(source, { bos_token: "<B>", eos_token: "<E>" }, name);
      const prompt = template.render(conversation.slice(0, 1), true),
        whole = template.render(conversation, false);
      assert.ok(prompt.includes("Hi") && !prompt.includes("Hello"), name);
      assert.ok(whole.includes("Hello"), name);
      assert.ok(whole.split("<B>").length <= 2, `${name} writes BOS twice`);
    }
    assert.ok(count >= 10);
  },
);

sharedTest(
  "assistantMask() is exact with the templates of Llama 3 and Qwen 2",
  "tokenizers/qwen2",
  async () => {
    for (const [model, stop] of [["llama3", "<|eot_id|>"], ["qwen2", "<|im_end|>"]] as const) {
      const tokenizer = await Tokenizer.load(`${SHARED}tokenizers/${model}`);
      assert.equal(tokenizer.endOfTurn?.text, stop);
      assert.equal(marked(tokenizer, chat).replaceAll("\n", ""), `The actor does.${stop}The critic.${stop}`);
    }
  },
);
