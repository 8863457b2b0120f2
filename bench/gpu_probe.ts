/**
 * The first thing to run where a GPU is at hand, a few minutes: `deno run -A bench/gpu_probe.ts [--out FILE] [PART …]`. Each part is a
 * process of its own, so one that fails or hangs takes no other with it; its lines of JSON come as they are found, and a short table
 * at the end. Parts are in `gpu_probe_parts.ts`.
 */
import type { PARTS } from "./gpu_probe_parts.ts";

/** A part that takes longer hangs. */
const LIMIT_SECONDS = 150;

interface Line {
  readonly part: string;
  readonly what: string;
  readonly [key: string]: unknown;
}
interface Outcome {
  readonly part: string;
  readonly seconds: number;
  readonly lines: readonly Line[];
  readonly failed?: string;
}

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
  { name: "products, bf16, own kernels", part: "products", env: MATH },
  { name: "products, bf16, cuBLASLt", part: "products", env: { ...MATH, BATON_CUDA_PRODUCTS: "cublas" } },
  { name: "products, bf16 in memory", part: "productsInBf16", env: MATH },
  { name: "the same by cuBLASLt", part: "productsInBf16", env: { ...MATH, BATON_CUDA_PRODUCTS: "cublas" } },
  { name: "attention, bf16", part: "attention", env: MATH },
  { name: "graphs", part: "graphs", env: {} },
  { name: "ranks on one GPU, copies", part: "ranks", env: { BATON_CUDA_COLLECTIVES: "copies" } },
  { name: "ranks on one GPU, NCCL", part: "ranks", env: { BATON_CUDA_COLLECTIVES: "nccl" } },
];

async function run({ name, part, env }: (typeof RUNS)[number]): Promise<Outcome> {
  const start = performance.now(), timeout = new AbortController();
  const timer = setTimeout(() => timeout.abort(), LIMIT_SECONDS * 1000);
  const script = new URL("./gpu_probe_parts.ts", import.meta.url).pathname;
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", script, part],
    env: { NO_COLOR: "1", ...env },
    signal: timeout.signal,
  }).output();
  clearTimeout(timer);
  const lines = new TextDecoder().decode(stdout).trim().split("\n").filter((l) => l.startsWith("{"))
    .map((l): Line => ({ part: name, ...JSON.parse(l) }));
  for (const line of lines) console.log(JSON.stringify(line));
  const why = timeout.signal.aborted
    ? `it took more than ${LIMIT_SECONDS} s`
    : reasonIn(new TextDecoder().decode(stderr));
  return {
    part: name,
    seconds: (performance.now() - start) / 1000,
    lines,
    ...(!success && { failed: why }),
  };
}

/** What went wrong, without what Deno writes before it. */
const reasonIn = (stderr: string): string =>
  stderr.split("\n").find((l) => /error: |Cannot /i.test(l))?.replace(/^.*?(?=Cannot )/, "") ??
    "it ended early";

/** The line of a part that says most: the last that it marks so, else the last. */
const summary = ({ lines, failed }: Outcome): string =>
  failed ? `FAILED: ${failed}` : lines.findLast((l) => l["best"])?.what ?? lines.at(-1)?.what ?? "nothing";

const at = Deno.args.indexOf("--out"), file = at >= 0 ? Deno.args[at + 1]! : "build/gpu_probe.json";
const names = Deno.args.filter((_, i) => at < 0 || (i !== at && i !== at + 1));
const outcomes: Outcome[] = [];
for (const r of RUNS) {
  if (names.length === 0 || names.includes(r.part)) outcomes.push(await run(r));
}
await Deno.mkdir(file.replace(/[^/]*$/, "") || ".", { recursive: true });
await Deno.writeTextFile(file, JSON.stringify(outcomes, null, 1));
console.log("");
for (const o of outcomes) {
  console.log(`${o.part.padEnd(30)} ${o.seconds.toFixed(0).padStart(4)} s  ${summary(o)}`);
}
console.log(`\nwrote ${file}`);
Deno.exit(outcomes.some((o) => o.failed) ? 1 : 0);
