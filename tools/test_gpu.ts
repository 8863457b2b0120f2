/**
 * `deno task test:gpu`: every check that needs a GPU, and a short table last. Without a GPU it says so and ends with exit code 2. With
 * `--emulation` those that are not too slow run on the emulated library, to see that the checks themselves work.
 */
import { build } from "../ffi/build.ts";
import { buildCuda, buildEmulation, libraryFolders } from "../ffi/build_cuda.ts";
import { describeCuda } from "../ffi/cuda.ts";
import { distances, type Outcome, outcomes } from "../tests/native/outcomes.ts";
import { tinyWorld } from "../tests/run/fixtures.ts";

interface Row {
  readonly check: string;
  readonly passed: boolean;
  readonly detail: string;
  readonly seconds: number;
}
const root = new URL("../", import.meta.url), rows: Row[] = [];

async function check(name: string, run: () => Promise<{ passed: boolean; detail: string }>): Promise<void> {
  const start = performance.now();
  const { passed, detail } = await run().catch((error: unknown) => ({
    passed: false,
    detail: (error instanceof Error ? error.message : String(error)).trim().split("\n").at(-1)!,
  }));
  rows.push({ check: name, passed, detail, seconds: (performance.now() - start) / 1000 });
  console.error(`${passed ? "ok    " : "FAILED"} ${name}: ${detail}`);
}

/** `deno …` with the library under test; the last line that says how many tests passed. */
async function tests(
  env: Record<string, string>,
  files: readonly string[],
): Promise<{ passed: boolean; detail: string }> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", "--no-check", ...files],
    env: { NO_COLOR: "1", ...env },
    cwd: root,
  }).output();
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  const failed = text.split("\n").filter((line) => line.includes("... FAILED")).map((line) =>
    line.split(" ...")[0]!
  );
  const line = text.split("\n").findLast((line) => /\d+ passed/.test(line)) ?? "it ended without a summary";
  return { passed: success, detail: failed.length ? `${line}: ${failed.join("; ")}` : line };
}

/** Rewards, losses and gradient norms of some steps of a script. */
async function ppo(
  script: readonly string[],
  devices: readonly string[],
  env: Record<string, string>,
): Promise<number[]> {
  const out = await Deno.makeTempDir();
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", ...script, "--quiet", "--out", out, "--devices", ...devices],
    env: { NO_COLOR: "1", ...env },
    cwd: root,
    stdout: "null",
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  const lines = (await Deno.readTextFile(`${out}/metrics.jsonl`)).trim().split("\n").map((l) =>
    JSON.parse(l)
  );
  return lines.flatMap((l) =>
    Object.entries(l).filter(([k, v]) =>
      /^(reward|.*\/loss|.*\/gradientNorm)$/.test(k) && typeof v === "number"
    ).map(([, v]) => v as number)
  );
}

/** The same steps on the CPU, on a GPU and on four devices of it. */
async function comparePpo(
  script: readonly string[],
  env: Record<string, string> = {},
): Promise<{ passed: boolean; detail: string }> {
  const library = { BATON_LIBRARY: gpu.BATON_LIBRARY ?? "", ...env };
  const one = await ppo(script, ["cpu:1"], { BATON_LIBRARY: cpu }),
    alone = await ppo(script, ["cuda:0"], library),
    four = await ppo(script, ["cuda:0x4", "--strategy", "dp2tp2"], library);
  const apart = (a: number[], b: number[]) =>
    a.length === b.length
      ? Math.max(...a.map((x, i) => Math.abs(x - b[i]!) / Math.max(1e-3, Math.abs(x))))
      : Infinity;
  const [first, second] = [apart(one, alone), apart(one, four)];
  return {
    passed: one.length > 0 && first < 1e-3 && second < 1e-2,
    detail: `relative difference ${first.toExponential(1)} and ${second.toExponential(1)}`,
  };
}

const emulation = Deno.args.includes("--emulation");
const cpu = await build(console.error);
if (!emulation && !(await buildCuda(console.error).catch((e: Error) => (console.error(e.message), null)))) {
  Deno.exit(2);
}
const gpu: Record<string, string> = emulation
  ? { BATON_LIBRARY: await buildEmulation(console.error) }
  : { BATON_GPUS: "0", BATON_CUDA_LIBRARIES: libraryFolders().join(":") };
if (!emulation) {
  const found = describeCuda();
  if (!found || found.missing) {
    console.error(
      `Cannot test the GPU: ${found?.missing ?? "the CUDA library cannot be opened, see deno task doctor"}`,
    );
    Deno.exit(2);
  }
}

const references = new Map<string, Outcome[]>();
/** @param how `--half` with operands that are bf16 in memory, `--rows` of all that takes a weight, with it in rows */
const compare = (name: string, env: Record<string, string>, most: number, ...how: readonly string[]) =>
  check(name, async () => {
    const key = how.join(" "),
      expected = references.get(key) ?? await outcomes({ BATON_LIBRARY: cpu }, how);
    references.set(key, expected);
    const all = distances(await outcomes({ ...gpu, ...env }, how), expected);
    const worst = all.reduce((a, b) => b.relative <= a.relative ? a : b);
    const other = all.filter(({ bits }) => bits > 0).length;
    const wrong = all.filter(({ relative }) => !(relative <= most));
    return {
      passed: wrong.length === 0,
      detail: wrong.length
        ? wrong.slice(0, 5).map((d) => `${d.name} ${d.relative.toExponential(1)}`).join("; ")
        : `${all.length} outputs, ${other} with other bits than the CPU, worst ${
          worst.relative.toExponential(1)
        } (${worst.name})`,
    };
  });
await compare("operations, fp32", { BATON_CUDA_MATH: "fp32" }, 1e-5);
await compare("operations, fp32, chains interpreted", {
  BATON_CUDA_MATH: "fp32",
  BATON_CUDA_POINTWISE: "interpreter",
}, 1e-5);
await compare("operations, bf16", { BATON_CUDA_MATH: "bf16" }, 4e-2);
await compare("operations, bf16 in memory, fp32 products", { BATON_CUDA_MATH: "fp32" }, 1e-5, "--half");
await compare("operations, bf16 in memory", {}, 5e-3, "--half");
await compare("weights in rows, fp32", { BATON_CUDA_MATH: "fp32" }, 1e-5, "--rows");
await compare("weights in rows, bf16, own kernels", { BATON_CUDA_PRODUCTS: "own" }, 5e-3, "--half", "--rows");
const blas = emulation ? "" : describeCuda()!.libraries!["cublasLt"]!;
if (/^\d/.test(blas)) {
  await compare(
    "weights in rows, bf16, cuBLASLt",
    { BATON_CUDA_PRODUCTS: "cublas" },
    5e-3,
    "--half",
    "--rows",
  );
} else if (!emulation) {
  await check("weights in rows, bf16, cuBLASLt", () => Promise.resolve({ passed: false, detail: blas }));
}
const operations = [
  "attention",
  "collective",
  "head",
  "matmul",
  "norm",
  "optimizer",
  "rows",
  "sample",
  "shards",
];
await check(
  "tests of operations",
  () => tests(gpu, operations.map((name) => `tests/native/op_${name}_test.ts`)),
);
await check("golden models", () => tests(gpu, ["tests/golden/models_test.ts"]));
await check("golden models in bf16, and parity", () => tests(gpu, ["tests/golden/half_test.ts"]));
const world = await Deno.makeTempDir();
await tinyWorld(world);
const tiny = ["tests/run/scripts/ppo.ts", "--world", world, "--steps", "2", "--save-every", "0"];
await check("PPO of two tiny layers, cuda:0 and cuda:0x4", () => comparePpo(tiny));
if (!emulation) {
  await check(
    "the same by NCCL, which needs 2.30.3",
    () => comparePpo(tiny, { BATON_CUDA_COLLECTIVES: "nccl" }),
  );
  await check(
    "PPO of the couplets, cuda:0 and cuda:0x4",
    () => comparePpo(["examples/ppo.ts", "--steps", "3"]),
  );
  await check("compute-sanitizer", async () => {
    const script = "tests/native/scripts/run_cases.ts",
      kinds = ["matmul", "attention", "attentionGrad", "sample", "pagedAttention"];
    const { success, stdout } = await new Deno.Command("compute-sanitizer", {
      args: ["--error-exitcode", "9", Deno.execPath(), "run", "-A", "--no-check", script, ...kinds],
      env: { ...gpu, BATON_CUDA_MATH: "bf16" },
      cwd: root,
    }).output();
    return {
      passed: success,
      detail: new TextDecoder().decode(stdout).trim().split("\n").findLast((l) =>
        l.includes("ERROR SUMMARY")
      ) ?? "it did not run",
    };
  });
}

console.log("");
for (const { check, passed, detail, seconds } of rows) {
  console.log(
    `${passed ? "ok    " : "FAILED"} ${check.padEnd(40)} ${seconds.toFixed(0).padStart(4)} s  ${detail}`,
  );
}
const failed = rows.filter(({ passed }) => !passed).length;
console.log(`\n${rows.length - failed} passed, ${failed} failed`);
Deno.exit(failed > 0 ? 1 : 0);
