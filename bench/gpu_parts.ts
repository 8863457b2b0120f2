/** What the probe and the bench of GPUs consist of, each part a process of its own. */
import { shapeJson } from "./gpu_models.ts";
import { type Part, peerOf, script } from "./parts.ts";

const BF16 = { BATON_CUDA_MATH: "bf16" };

/** A part of the probe that takes longer hangs; one of the bench has to make 8B parameters. */
const PROBE_SECONDS = 90, BENCH_SECONDS = 240;

/** Attention in bf16 by our own kernels and by cuDNN: the probe and the bench have it. */
export const ATTENTION: Part = {
  name: "attention, own and cuDNN",
  command: script("gpu_attention.ts", "attentionInBf16"),
  seconds: BENCH_SECONDS,
};

/** The probe: what a GPU does with what this project asks of it. Paths are chosen when the library is opened, so by environment. */
export const PROBE: readonly Part[] = [
  ...([
    ["machine", "machine", {}],
    ["copies", "copies", {}],
    ["products, fp32", "products", { BATON_CUDA_MATH: "fp32" }],
    ["products of fp32, rounded", "products", BF16],
    ["products, bf16, own kernels", "productsInBf16", { ...BF16, BATON_CUDA_PRODUCTS: "own" }],
    ["products, bf16, cuBLASLt", "productsInBf16", { ...BF16, BATON_CUDA_PRODUCTS: "cublas" }],
    ["products, bf16 in panels", "productsInPanels", BF16],
    ["attention, bf16", "attention", BF16],
    ["graphs", "graphs", {}],
    ["ranks on one GPU, copies", "ranks", { BATON_CUDA_COLLECTIVES: "copies" }],
    ["ranks on one GPU, NCCL", "ranks", { BATON_CUDA_COLLECTIVES: "nccl" }],
  ] satisfies [string, string, Record<string, string>][]).map(([name, part, env]) => ({
    name,
    env,
    command: script("gpu_probe_parts.ts", part),
    seconds: PROBE_SECONDS,
  })),
  ATTENTION,
];

/** Those that are worth most first; a peer runs the shape of all but the last. */
const STEPS = [
  "train 1.7B",
  "decode 1.7B x64",
  "grpo 1.7B",
  "decode 8B x1",
  "logprob 8B",
  "train 8B",
  ...[["1.7B", 1], ["1.7B", 256], ["8B", 64], ["8B", 256], ["0.6B", 1], ["0.6B", 64], ["0.6B", 256]].map((
    [shape, batch],
  ) => `decode ${shape} x${batch}`),
];
const EMULATED = ["train 1.7B", "train 8B", "logprob 8B", "decode 8B x1", "grpo 1.7B"];

/** Growth of a GPU's memory beside the byte table: the checks and the bench have it. */
export const MEMORY: readonly Part[] = [1, 4].map((devices) => ({
  name: `memory, devices on a GPU: ${devices}`,
  command: script("gpu_memory.ts", String(devices)),
  seconds: BENCH_SECONDS,
}));

/** Whether a Python has what the peer needs. */
export async function hasTorch(python: string): Promise<boolean> {
  try {
    const args = ["-c", "import torch, transformers"];
    return (await new Deno.Command(python, { args, stdout: "null", stderr: "null" }).output()).success;
  } catch {
    return false;
  }
}

/**
 * The bench: operations and whole steps, each beside transformers where a Python for that is given.
 *
 * @param o.small at sizes that the emulation can do
 */
export function benchParts(o: { readonly small: boolean; readonly python: string | null }): Part[] {
  const env = { BATON_CUDA_MATH: Deno.env.get("BATON_CUDA_MATH") ?? "bf16" };
  const peer = (name: string, python: string): Part => ({
    name: peerOf(name),
    command: [
      python,
      new URL("./gpu_peer.py", import.meta.url).pathname,
      name,
      JSON.stringify(shapeJson(o.small ? "tiny" : name.split(" ")[1] as "8B", 8192)),
      ...o.small ? ["--small"] : [],
    ],
    seconds: BENCH_SECONDS,
  });
  return [
    { name: "operations", command: script("gpu_operations.ts"), env, seconds: BENCH_SECONDS },
    ...[{}, { BATON_CUDA_PRODUCTS: "own" }].map((products): Part => ({
      name: `joined products${"BATON_CUDA_PRODUCTS" in products ? ", own kernels" : ""}`,
      command: script("gpu_joined.ts"),
      env: { ...env, ...products },
      seconds: BENCH_SECONDS,
    })),
    ATTENTION,
    ...(o.small ? EMULATED : STEPS).flatMap((name): Part[] => [
      { name, command: script("gpu_steps.ts", name), env, seconds: BENCH_SECONDS },
      ...o.python !== null && !name.startsWith("grpo") ? [peer(name, o.python)] : [],
    ]),
    ...MEMORY,
  ];
}
