/**
 * `deno task bench:gpu [--out FILE] [--only REGEX]`: operations and whole steps at the shapes of real models in bf16, each beside its
 * floor, and PyTorch with transformers on the same shapes where the Python of BATON_PEER_PYTHON (python3 by default) has them. Every part is
 * a process of its own with a time limit; a short table comes last.
 */
import { parseArgs } from "node:util";
import { shapeJson } from "./gpu_models.ts";
import { finish, type Outcome, type Part, runPart, script } from "./parts.ts";

const LIMIT_SECONDS = 240, BF16 = { BATON_CUDA_MATH: Deno.env.get("BATON_CUDA_MATH") ?? "bf16" };
/** Those whose shape a peer runs too; the others are ours alone. */
const STEPS = [
  "train 1.7B",
  "train 8B",
  "logprob 8B",
  ...["0.6B", "1.7B", "8B"].flatMap((shape) => [1, 64, 256].map((batch) => `decode ${shape} x${batch}`)),
  "grpo 1.7B",
];
const EMULATED = ["train 1.7B", "train 8B", "logprob 8B", "decode 8B x1", "grpo 1.7B"];

const { values: flags } = parseArgs({
  options: {
    out: { type: "string", default: "build/gpu_bench.json" },
    only: { type: "string", default: "" },
    small: { type: "boolean", default: false },
  },
});
const small = flags.small, python = Deno.env.get("BATON_PEER_PYTHON") ?? "python3";

/** Whether a Python has what the peer needs. */
async function hasTorch(): Promise<boolean> {
  try {
    const args = ["-c", "import torch, transformers"];
    return (await new Deno.Command(python, { args, stdout: "null", stderr: "null" }).output()).success;
  } catch {
    return false;
  }
}

const peer = (name: string): Part => {
  const shape = small ? "tiny" : name.split(" ")[1] as "8B";
  return {
    name: `  transformers, ${name}`,
    command: [
      python,
      new URL("./gpu_peer.py", import.meta.url).pathname,
      name,
      JSON.stringify(shapeJson(shape, 8192)),
      ...small ? ["--small"] : [],
    ],
  };
};

const torch = await hasTorch(), wanted = new RegExp(flags.only);
const parts: Part[] = [
  { name: "operations", command: script("gpu_operations.ts"), env: BF16 },
  ...(small ? EMULATED : STEPS).flatMap((name): Part[] => [
    { name, command: script("gpu_steps.ts", name), env: BF16 },
    ...torch && !name.startsWith("grpo") ? [peer(name)] : [],
  ]),
].filter(({ name }) => wanted.test(name));
const outcomes: Outcome[] = [];
for (const part of parts) outcomes.push(await runPart(part, LIMIT_SECONDS));

/** Tokens per second of a part, where it says so. */
const rate = (o: Outcome | undefined): number | undefined =>
  o?.lines.at(-1)?.["tokensPerSecond"] as number | undefined;
const beside = (o: Outcome): string => {
  const own = rate(o), theirs = rate(outcomes.find(({ part }) => part === `  transformers, ${o.part}`));
  return own && theirs ? `, ${(own / theirs).toPrecision(3)} × transformers` : "";
};
if (!torch) console.log(`no torch and transformers in ${python}: nothing to compare with`);
await finish(outcomes, flags.out, (o) => `${o.lines.at(-1)?.what ?? "it said nothing"}${beside(o)}`);
