/** Whole runs in processes of their own: tiny random models, tiny data, and what a run leaves behind. */
import { createHash } from "node:crypto";
import { parseConfig } from "../../compiler/models/config.ts";
import { parameters } from "../../compiler/models/transformer.ts";
import { initializeWeights, saveModel } from "../../engine/weights.ts";
import type { Head } from "../../ir/graph.ts";

export const ROOT = new URL("../../", import.meta.url).pathname;
export const SCRIPTS = new URL("./scripts/", import.meta.url).pathname;

/** No run of a test takes plans or profiles of the machine that it is on. */
const BATON_CACHE = Deno.makeTempDirSync({ prefix: "baton-cache-" });
globalThis.addEventListener("unload", () => Deno.removeSync(BATON_CACHE, { recursive: true }));

const LETTERS = [..."abcdefghijklmnopqrstuvwxyz ,.\n"];
const CONFIG = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 16,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  intermediate_size: 32,
  vocab_size: 32,
  max_position_embeddings: 48,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  hidden_act: "silu",
  attention_dropout: 0,
  initializer_range: 0.3,
  bos_token_id: 30,
  eos_token_id: 31,
};

/** A tokenizer that has a token per letter. */
const tokenizerJson = (letters: readonly string[]) => ({
  version: "1.0",
  added_tokens: ["<s>", "</s>"].map((content, i) => ({
    id: letters.length + i,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })),
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: { type: "Fuse" },
  model: { type: "BPE", vocab: Object.fromEntries(letters.map((c, i) => [c, i])), merges: [] },
});

export interface TinyModel {
  readonly config?: Readonly<Record<string, unknown>>;
  readonly head?: Head;
  readonly seed?: number;
  /** Letters of its tokenizer; null: it has none. */
  readonly letters?: readonly string[] | null;
}

/** A random model of two layers as a folder that a script can load. */
export async function tinyModel(folder: string, options: TinyModel = {}): Promise<string> {
  const { head = "lm", seed = 1, letters = LETTERS } = options, json = { ...CONFIG, ...options.config };
  const parts = `${folder}.tokenizer`, values = new Map<string, Float32Array>();
  if (letters) {
    await Deno.mkdir(parts, { recursive: true });
    await Deno.writeTextFile(`${parts}/tokenizer.json`, JSON.stringify(tokenizerJson(letters)));
    const names = { bos_token: "<s>", eos_token: "</s>", add_bos_token: false };
    await Deno.writeTextFile(`${parts}/tokenizer_config.json`, JSON.stringify(names));
  }
  const list = parameters(parseConfig(json, "fixtures.ts"), head), std = json.initializer_range;
  await initializeWeights(list, (p, stored) => void values.set(p.name, stored), { seed, std });
  await saveModel(folder, {
    config: json,
    head,
    parameters: list,
    source: (p) => values.get(p.name)!,
    dtype: "F32",
    tokenizerFolder: letters ? parts : null,
  });
  if (letters) await Deno.remove(parts, { recursive: true });
  return folder;
}

/** Lines of JSON. */
export async function jsonLines(path: string, lines: readonly unknown[]): Promise<string> {
  await Deno.writeTextFile(path, lines.map((line) => JSON.stringify(line) + "\n").join(""));
  return path;
}

const WORDS = [
  "the cat",
  "a dog sat",
  "one",
  "two birds sang",
  "so it was",
  "low",
  "and then",
  "why not here",
];

/** A folder with a policy, a reward model, prompts and texts: what the scripts of this group need. */
export async function tinyWorld(folder: string): Promise<void> {
  await tinyModel(`${folder}/policy`);
  await tinyModel(`${folder}/reward`, { head: "reward", seed: 2 });
  await jsonLines(`${folder}/prompts.jsonl`, WORDS.map((prompt) => ({ prompt })));
  await jsonLines(`${folder}/texts.jsonl`, WORDS.map((word) => ({ text: `${word}, ${word}.` })));
}

/** Runs with a folder of its own that holds a tiny world. */
export async function withWorld(fn: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "baton-run-" });
  try {
    await tinyWorld(folder);
    await fn(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

export interface Ended {
  readonly code: number;
  readonly out: string;
  readonly err: string;
  /** Seconds from the last signal to the end; from the start when none was sent. */
  readonly seconds: number;
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Flags of `deno run` beside -A. */
  readonly deno?: readonly string[];
  /** Asked with all of stderr so far, for every piece of it: how many signals should have been sent by now. */
  readonly interrupt?: (err: string) => number;
  /** What is sent instead of SIGINT. */
  readonly signal?: Deno.Signal;
  /** Milliseconds to wait before each of them. */
  readonly delay?: number;
}

/** Runs a script in a process of its own. `script` is a path, or the name of one of this group's scripts. */
export async function script(
  script: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Ended> {
  const path = /[/:]/.test(script) ? script : `${SCRIPTS}${script}`;
  let since = performance.now(), sent = 0;
  const child = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", ...options.deno ?? [], path, ...args],
    cwd: options.cwd ?? ROOT,
    env: { NO_COLOR: "1", BATON_CACHE, ...options.env },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const out = new Response(child.stdout).text();
  let err = "";
  for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) {
    err += text;
    while (sent < (options.interrupt?.(err) ?? 0)) {
      sent++;
      await new Promise((resolve) => setTimeout(resolve, options.delay ?? 0));
      since = performance.now();
      child.kill(options.signal ?? "SIGINT");
    }
  }
  const { code } = await child.status;
  return { code, out: await out, err, seconds: (performance.now() - since) / 1000 };
}

/** Fails with everything that the process said when it did not end well. */
export async function succeeds(...args: Parameters<typeof script>): Promise<Ended> {
  const ended = await script(...args);
  if (ended.code !== 0) {
    throw new Error(`${args[0]} ${args[1].join(" ")} ended with ${ended.code}: ${ended.err}`);
  }
  return ended;
}

/** SHA-256 of every file below a folder, by path: equal listings mean that nothing was touched. */
export function listing(folder: string): Record<string, string> {
  const files: Record<string, string> = {};
  const visit = (path: string) => {
    for (const entry of Deno.readDirSync(path)) {
      const inner = `${path}/${entry.name}`;
      if (entry.isDirectory) {
        files[`${inner.slice(folder.length)}/`] = "";
        visit(inner);
      } else {files[inner.slice(folder.length)] = createHash("sha256").update(Deno.readFileSync(inner))
          .digest("hex");}
    }
  };
  visit(folder);
  return Object.fromEntries(Object.entries(files).sort(([a], [b]) => a < b ? -1 : 1));
}

/** What a run said on stderr, but for the lines about its sizes (`run/derived.ts`). */
export const afterSizes = (err: string): string =>
  err.replace(/^(each step|micro-batches|kv pages|precision|memory): .*\n/gm, "");

export type Line = Readonly<Record<string, unknown>>;
export const readLines = (path: string): Line[] =>
  Deno.readTextFileSync(path).trimEnd().split("\n").map((line) => JSON.parse(line));

/** Lines of metrics.jsonl without what a clock says. */
export const metricsOf = (out: string): Line[] =>
  readLines(`${out}/metrics.jsonl`).map((line) =>
    Object.fromEntries(Object.entries(line).filter(([name]) => !/^(seconds|tokensPerSecond|mfu)/.test(name)))
  );

/** Everything that training decided: metrics but timing, samples, exported weights. */
export function outcome(out: string): unknown {
  const weights = Object.entries(listing(out)).filter(([path]) =>
    path.endsWith(".safetensors") && !path.startsWith("/checkpoints")
  );
  return { metrics: metricsOf(out), samples: readLines(`${out}/samples.jsonl`), weights };
}
