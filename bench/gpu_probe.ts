/**
 * The first thing to run where a GPU is at hand, a few minutes: `deno run -A bench/gpu_probe.ts [--out FILE] [PART …]`. Each part is a
 * process of its own, so one that fails or hangs takes no other with it; its lines of JSON come as they are found, and a short table
 * at the end. Parts are in `gpu_probe_parts.ts`.
 */
import type { PARTS } from "./gpu_probe_parts.ts";
import { finish, type Outcome, runPart, script } from "./parts.ts";

/** A part that takes longer hangs. */
const LIMIT_SECONDS = 150;

const MATH = { BATON_CUDA_MATH: "bf16" };
/** What the environment of a part is beside the usual: paths are chosen when the library is opened. */
const RUNS: readonly {
  readonly name: string;
  readonly part: keyof typeof PARTS;
  readonly env: Record<string, string>;
}[] = [
  { name: "machine", part: "machine", env: {} },
  { name: "copies", part: "copies", env: {} },
  { name: "products, fp32", part: "products", env: { BATON_CUDA_MATH: "fp32" } },
  { name: "products of fp32, rounded", part: "products", env: MATH },
  {
    name: "products, bf16, own kernels",
    part: "productsInBf16",
    env: { ...MATH, BATON_CUDA_PRODUCTS: "own" },
  },
  {
    name: "products, bf16, cuBLASLt",
    part: "productsInBf16",
    env: { ...MATH, BATON_CUDA_PRODUCTS: "cublas" },
  },
  { name: "products, bf16 in panels", part: "productsInPanels", env: MATH },
  { name: "attention, bf16", part: "attention", env: MATH },
  { name: "graphs", part: "graphs", env: {} },
  { name: "ranks on one GPU, copies", part: "ranks", env: { BATON_CUDA_COLLECTIVES: "copies" } },
  { name: "ranks on one GPU, NCCL", part: "ranks", env: { BATON_CUDA_COLLECTIVES: "nccl" } },
];

/** The line of a part that says most: the last that it marks so, else the last. */
const summary = ({ lines }: Outcome): string =>
  (lines.findLast((l) => l["best"]) ?? lines.at(-1))?.what ?? "it said nothing";

const at = Deno.args.indexOf("--out"), file = at >= 0 ? Deno.args[at + 1]! : "build/gpu_probe.json";
const names = Deno.args.filter((_, i) => at < 0 || (i !== at && i !== at + 1));
const outcomes: Outcome[] = [];
for (const { name, part, env } of RUNS) {
  if (names.length > 0 && !names.includes(part)) continue;
  outcomes.push(await runPart({ name, command: script("gpu_probe_parts.ts", part), env }, LIMIT_SECONDS));
}
await finish(outcomes, file, summary);
