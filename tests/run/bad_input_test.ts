import assert from "node:assert/strict";
import { afterSizes, jsonLines, listing, script, succeeds, tinyModel, withWorld } from "./fixtures.ts";

interface Case {
  readonly name: string;
  readonly script?: "ppo.ts" | "sft.ts";
  /** Breaks the world; returns further arguments. */
  readonly prepare: (world: string) => Promise<readonly string[] | void> | readonly string[] | void;
  readonly says: RegExp;
}

const edit = async (path: string, change: (json: Record<string, unknown>) => void) => {
  const json = JSON.parse(await Deno.readTextFile(path));
  change(json);
  await Deno.writeTextFile(path, JSON.stringify(json));
};
const config = (world: string, change: Record<string, unknown>) =>
  edit(`${world}/policy/config.json`, (json) => Object.assign(json, change));
const yaml = async (world: string, text: string) => {
  await Deno.writeTextFile(`${world}/run.yaml`, text);
  return ["--config", `${world}/run.yaml`];
};

/** A safetensors file with one tensor's entry in the header changed; the data stays. */
async function editTensor(path: string, tensor: string, change: Record<string, unknown>): Promise<void> {
  const bytes = await Deno.readFile(path), length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  Object.assign(header[tensor], change);
  const text = new TextEncoder().encode(JSON.stringify(header).padEnd(length));
  const out = new Uint8Array(8 + text.length + bytes.length - 8 - length);
  new DataView(out.buffer).setBigUint64(0, BigInt(text.length), true);
  out.set(text, 8);
  out.set(bytes.subarray(8 + length), 8 + text.length);
  await Deno.writeFile(path, out);
}

const WEIGHTS = "policy/model.safetensors";
const NORM = "model.norm.weight";

/** One line: what cannot be done, the facts, the way out. */
const ONE_LINE = /^error: Cannot [^\n]+?: [^\n]+, [^\n]+\n$/;

const CASES: readonly Case[] = [
  {
    name: "a missing model folder",
    prepare: (world) => Deno.remove(`${world}/policy`, { recursive: true }),
    says: /Cannot load actor: \S+\/policy\/config\.json does not exist, give a folder/,
  },
  {
    name: "missing weights",
    prepare: (world) => Deno.remove(`${world}/${WEIGHTS}`),
    says: /policy: it has neither model\.safetensors nor model\.safetensors\.index\.json, convert/,
  },
  {
    name: "truncated weights",
    prepare: (world) => Deno.truncate(`${world}/${WEIGHTS}`, 5000),
    says: /model\.safetensors: tensor \S+ ends at byte \d+ and the file has 5000, it is truncated/,
  },
  {
    name: "weights without a header",
    prepare: (world) =>
      Deno.writeTextFile(`${world}/${WEIGHTS}`, "git-lfs pointer: not a safetensors file at all"),
    says: /model\.safetensors: its header claims \d+ bytes, it is no safetensors file/,
  },
  {
    name: "a tensor of another shape",
    prepare: (world) => editTensor(`${world}/${WEIGHTS}`, NORM, { shape: [4, 4] }),
    says: /policy: model\.norm\.weight has shape \[4, 4\] instead of \[16\]/,
  },
  {
    name: "a tensor of another dtype",
    prepare: (world) => editTensor(`${world}/${WEIGHTS}`, NORM, { dtype: "I32" }),
    says: /policy: model\.norm\.weight has dtype I32 instead of F32, BF16 or F16/,
  },
  {
    name: "weights of another config",
    prepare: (world) => config(world, { num_hidden_layers: 3 }),
    says:
      /policy: model\.layers\.2\.\S+ \[\d+(, \d+)?\] is missing.*Does its config\.json belong to these weights\?/,
  },
  {
    name: "an unknown architecture",
    prepare: (world) => config(world, { model_type: "gpt2", architectures: ["GPT2LMHeadModel"] }),
    says: /policy\/config\.json: model_type is .*"llama"/,
  },
  {
    name: "an unknown class",
    prepare: (world) => config(world, { architectures: ["LlamaForQuestionAnswering"] }),
    says: /policy\/config\.json: architectures is LlamaForQuestionAnswering, and Baton has LlamaForCausalLM/,
  },
  {
    name: "dropout",
    prepare: (world) => config(world, { attention_dropout: 0.1 }),
    says: /policy\/config\.json: attention_dropout is not 0, and Baton has no dropout/,
  },
  {
    name: "a config that is not JSON",
    prepare: (world) => Deno.writeTextFile(`${world}/policy/config.json`, "{"),
    says: /Cannot read \S+\/policy\/config\.json: /,
  },
  {
    name: "a tokenizer with more ids than the embedding has rows",
    prepare: (world) => tinyModel(`${world}/policy`, { config: { vocab_size: 31 } }).then(() => {}),
    says: /tokenizer of \S+\/policy: its largest id is 31 and the model's embedding has 31 rows/,
  },
  {
    name: "a reference with another vocabulary",
    prepare: async (world) => {
      await tinyModel(`${world}/other`, { config: { vocab_size: 40 } });
      return ["--ref", "other"];
    },
    says: /actor has 32 tokens .* but ref has 40 tokens .*share a vocabulary/,
  },
  {
    name: "a critic with another tokenizer of the same size",
    prepare: async (world) => {
      await tinyModel(`${world}/other`, { letters: [..."zyxwvutsrqponmlkjihgfedcba ,.\n"] });
      return ["--critic", "other"];
    },
    says: /actor .* but critic .*tokenizer/,
  },
  {
    name: "a prompt that fills the context",
    prepare: async (world) => {
      await jsonLines(`${world}/prompts.jsonl`, [{ prompt: "short" }, { prompt: "long ".repeat(10) }]);
    },
    says: /prompts\.jsonl:2: prompt: 50 tokens, at most 47 fit/,
  },
  {
    name: "a text longer than the context",
    script: "sft.ts",
    prepare: async (world) => {
      await jsonLines(`${world}/texts.jsonl`, [{ text: "short" }, { text: "long ".repeat(10) }]);
    },
    says: /texts\.jsonl:2: conversation: 51 tokens, at most 48 fit/,
  },
  {
    name: "a data set without a line",
    prepare: (world) => Deno.writeTextFile(`${world}/prompts.jsonl`, "\n\n"),
    says: /prompts\.jsonl holds no line/,
  },
  {
    name: "a data set that is not there",
    prepare: (world) => Deno.remove(`${world}/prompts.jsonl`),
    says: /there is no file \S+\/prompts\.jsonl/,
  },
  {
    name: "a data set that is a folder",
    prepare: async (world) => {
      await Deno.remove(`${world}/prompts.jsonl`);
      await Deno.mkdir(`${world}/prompts.jsonl`);
    },
    says: /Cannot read data: \S+\/prompts\.jsonl is a folder/,
  },
  {
    name: "a malformed line",
    prepare: (world) => Deno.writeTextFile(`${world}/prompts.jsonl`, '{"prompt":"one"}\n{"prompt":"two"\n'),
    says: /prompts\.jsonl:2: not valid JSON/,
  },
  {
    name: "a line without a prompt",
    prepare: (world) => Deno.writeTextFile(`${world}/prompts.jsonl`, '{"prompt":"one"}\n{"ask":"two"}\n'),
    says: /prompts\.jsonl:2: it has none of "prompt", "messages" and "tokens"/,
  },
  {
    name: "a prompt without a token",
    prepare: (world) => Deno.writeTextFile(`${world}/prompts.jsonl`, '{"prompt":"one"}\n{"prompt":""}\n'),
    says: /prompts\.jsonl:2: prompt: it has no token/,
  },
  {
    name: "an example without an action",
    script: "sft.ts",
    prepare: async (world) => {
      await jsonLines(`${world}/texts.jsonl`, [{ tokens: [1, 2, 3] }, {
        tokens: [1, 2, 3],
        mask: [1, 0, 0],
      }]);
    },
    says: /texts\.jsonl:2: conversation: no token of it is the model's own, nothing to learn/,
  },
  {
    name: "an unknown YAML key",
    prepare: (world) => yaml(world, "run:\n  stepz: 3\nplan: { recompute: layers }\n"),
    says: /run\.yaml: run\.stepz: unknown key, run has steps, saveEvery/,
  },
  {
    name: "YAML that does not parse",
    prepare: (world) => yaml(world, "run: {\n"),
    says: /run\.yaml: .*line \d+, column \d+/,
  },
  {
    name: "a YAML file that is not there",
    prepare: (world) => ["--config", `${world}/none.yaml`],
    says: /Cannot read the configuration: there is no file \S+none\.yaml/,
  },
  {
    name: "a micro-batch in YAML that holds no machine's memory",
    prepare: (world) => yaml(world, "memoryGiB: 0.00001\n"),
    says:
      /Cannot run ppo on this machine: it needs \d+ MiB and 1 MiB are free \(largest: .*\), lower the batch/,
  },
  {
    name: "devices that this version lacks",
    prepare: () => ["--devices", "tpu:4"],
    says: /Cannot run ppo: devices is "tpu:4", it must be cpu:8 for 8 devices, cpu:2x4 for 2 nodes/,
  },
  {
    name: "an unknown flag",
    prepare: () => ["--stepz", "3"],
    says: /there is no flag --stepz.*--help/,
  },
  {
    name: "no steps",
    prepare: () => ["--steps", "0"],
    says: /--steps: .*>0/,
  },
  {
    name: "more mini-batches than groups",
    prepare: () => ["--minibatches", "9"],
    says: /9 mini-batches.*4 groups/,
  },
  {
    name: "an output folder of something else",
    prepare: async (world) => {
      await Deno.mkdir(`${world}/out`);
      await Deno.writeTextFile(`${world}/out/thesis.txt`, "years of work");
    },
    says: /Cannot start a run in \S+\/out: it holds thesis\.txt, choose an empty folder/,
  },
  {
    name: "an output folder that cannot be made",
    prepare: async (world) => {
      await Deno.writeTextFile(`${world}/file`, "");
      return ["--out", `${world}/file/out`];
    },
    says: /Cannot start a run in \S+\/file\/out: it cannot be written \(.*\), choose another folder/,
  },
  {
    name: "resuming where nothing is",
    prepare: () => ["--resume"],
    says: /Cannot resume in \S+\/out: it has no run\.json, start the run without --resume/,
  },
];

for (const { name, script: which = "ppo.ts", prepare, says } of CASES) {
  Deno.test(`run() refuses ${name} in one line and touches nothing`, async () => {
    await withWorld(async (world) => {
      const more = await prepare(world) ?? [], before = listing(world);
      const { code, out, err } = await script(which, [
        "--world",
        world,
        ...more.includes("--steps") ? [] : ["--steps", "2"],
        ...more.includes("--out") ? [] : ["--out", `${world}/out`],
        ...more,
      ]);
      assert.match(afterSizes(err), ONE_LINE);
      assert.match(err, says);
      assert.equal(out, "");
      assert.equal(code, 1);
      assert.deepEqual(listing(world), before);
    });
  });
}

Deno.test("run() leaves the folder of another run alone, and resumes only its own", async () => {
  await withWorld(async (world) => {
    const common = ["--world", world, "--steps", "2", "--out", `${world}/out`];
    await succeeds("sft.ts", common);
    const before = listing(world);
    const refused = async (name: string, args: readonly string[], says: RegExp) => {
      const { code, err } = await script(name, [...common, ...args]);
      assert.match(afterSizes(err), ONE_LINE);
      assert.match(err, says);
      assert.equal(code, 1);
      assert.deepEqual(listing(world), before);
    };
    await refused("sft.ts", [], /run "sft" is there, continue it with --resume or choose another folder/);
    await refused("ppo.ts", [], /run "sft" is there/);
    await refused("ppo.ts", ["--resume"], /Cannot resume in \S+\/out: its graph is .* and this run's is /);
    await refused("sft.ts", ["--resume", "--seed", "9"], /its seed is 1 and this run's is 9/);
    const texts = await Deno.readTextFile(`${world}/texts.jsonl`);
    await Deno.writeTextFile(`${world}/texts.jsonl`, texts + texts);
    Object.assign(before, listing(world));
    await refused(
      "sft.ts",
      ["--resume"],
      /Cannot resume from \S+: \S+texts\.jsonl has changed since, put the file back/,
    );
    await Deno.writeTextFile(`${world}/texts.jsonl`, texts);
    await Deno.truncate(`${world}/out/checkpoints/step-000002/actor.m.safetensors`, 900);
    Object.assign(before, listing(world));
    await refused("sft.ts", ["--resume"], /actor\.m\.safetensors: .*truncated/);
  });
});
