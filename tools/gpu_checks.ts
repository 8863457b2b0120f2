/**
 * Checks that need a GPU, each run alone in a process: `gpu_checks.ts [--emulation] NAME` prints a line of JSON with what it found, and
 * ends with 1 where that is not what it should be.
 */
import { build } from "../ffi/build.ts";
import { buildEmulation, libraryFolders } from "../ffi/build_cuda.ts";
import { describeCuda } from "../ffi/cuda.ts";
import { distances, operationTests, outcomes } from "../tests/native/outcomes.ts";
import { tinyWorld } from "../tests/run/fixtures.ts";

type Env = Readonly<Record<string, string>>;
interface Found {
  readonly passed: boolean;
  readonly detail: string;
}
interface Check {
  readonly name: string;
  readonly run: () => Promise<Found>;
  /** Whether the emulation can do it in reasonable time. */
  readonly emulated: boolean;
}

const root = new URL("../", import.meta.url), emulation = Deno.args.includes("--emulation");
const silent = () => {};
/** What opens the library under test in a process. */
const library = async (): Promise<Env> =>
  emulation
    ? { BATON_LIBRARY: await buildEmulation(silent) }
    : { BATON_GPUS: "0", BATON_CUDA_LIBRARIES: libraryFolders().join(":") };
const reference = async (): Promise<Env> => ({ BATON_LIBRARY: await build(silent) });

/** Programs that a check has started end with it. */
const stopped = new AbortController();
async function ran(args: readonly string[], env: Env, program = Deno.execPath()) {
  const { success, stdout, stderr } = await new Deno.Command(program, {
    args: [...args],
    env: { NO_COLOR: "1", ...env },
    cwd: root,
    signal: stopped.signal,
  }).output();
  const [out, err] = [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes));
  return { success, out: out!, err: err! };
}

/** Tests with the library under test, and how many of them passed. */
async function tests(files: readonly string[]): Promise<Found> {
  const { success, out, err } = await ran(["test", "-A", "--no-check", ...files], await library());
  const lines = `${out}${err}`.split("\n");
  const failed = lines.filter((line) => line.includes("... FAILED")).map((line) => line.split(" ...")[0]!);
  const line = lines.findLast((line) => /\d+ passed/.test(line)) ?? "it ended without a summary";
  return { passed: success, detail: failed.length ? `${line}: ${failed.join("; ")}` : line };
}

/** Rewards, losses and gradient norms of some steps of a script. */
async function ppo(script: readonly string[], devices: readonly string[], env: Env): Promise<number[]> {
  const out = await Deno.makeTempDir();
  const { success, err } = await ran(
    ["run", "-A", "--no-check", ...script, "--quiet", "--out", out, "--devices", ...devices],
    env,
  );
  if (!success) throw new Error(err);
  const lines = (await Deno.readTextFile(`${out}/metrics.jsonl`)).trim().split("\n").map((l) =>
    JSON.parse(l)
  );
  return lines.flatMap((l) =>
    Object.entries(l).filter(([k, v]) =>
      /^(reward|.*\/loss|.*\/gradientNorm)$/.test(k) && typeof v === "number"
    ).map(([, v]) => v as number)
  );
}

/** The largest difference of numbers that should be equal, over the size of the one. */
const apart = (a: readonly number[], b: readonly number[]): number =>
  a.length > 0 && a.length === b.length
    ? Math.max(...a.map((x, i) => Math.abs(x - b[i]!) / Math.max(1e-3, Math.abs(x))))
    : Infinity;

/** The same steps on the CPU, on a GPU and on four devices of it, in fp32, which is not what runs on GPUs do by themselves. */
async function comparePpo(script: readonly string[], env: Env = {}): Promise<Found> {
  const own = { BATON_LIBRARY: (await library())["BATON_LIBRARY"] ?? "", ...env };
  const single = ["--precision", "fp32"], one = await ppo(script, ["cpu:1"], await reference());
  const first = apart(one, await ppo(script, ["cuda:0", ...single], own)),
    second = apart(one, await ppo(script, ["cuda:0x4", "--strategy", "dp2tp2", ...single], own));
  return {
    passed: first < 1e-3 && second < 1e-2,
    detail: `relative difference ${first.toExponential(1)} and ${second.toExponential(1)}`,
  };
}

const TINY_STEPS = ["--steps", "2", "--save-every", "0"];
async function tiny(env: Env = {}): Promise<Found> {
  const world = await Deno.makeTempDir();
  await tinyWorld(world);
  return await comparePpo(["tests/run/scripts/ppo.ts", "--world", world, ...TINY_STEPS], env);
}

/** @param how `--half` with operands that are bf16 in memory, `--rows` of all that takes a weight, with it in rows */
const operations = (env: Env, most: number, ...how: readonly string[]) => async (): Promise<Found> => {
  const kinds = [...how];
  const expected = await outcomes(await reference(), kinds),
    all = distances(await outcomes({ ...await library(), ...env }, kinds), expected);
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
};

async function byCublas(): Promise<Found> {
  const found = describeCuda()?.libraries?.["cublasLt"] ?? "the CUDA library cannot be opened";
  if (!/^\d/.test(found)) return { passed: false, detail: found };
  return await operations({ BATON_CUDA_PRODUCTS: "cublas" }, 5e-3, "--half", "--rows")();
}

const sanitizer = (...kinds: readonly string[]) => async (): Promise<Found> => {
  const script = "tests/native/scripts/run_cases.ts";
  const args = ["--error-exitcode", "9", Deno.execPath(), "run", "-A", "--no-check", script, ...kinds];
  const env = { ...await library(), BATON_CUDA_MATH: "bf16" };
  const { success, out } = await ran(args, env, "compute-sanitizer");
  return {
    passed: success,
    detail: out.trim().split("\n").findLast((l) => l.includes("ERROR SUMMARY")) ?? "it did not run",
  };
};

const FP32 = { BATON_CUDA_MATH: "fp32" };

/** Those that are worth most first. */
export const CHECKS: readonly Check[] = [
  { name: "operations, fp32", run: operations(FP32, 1e-5), emulated: true },
  { name: "operations, bf16 in memory", run: operations({}, 5e-3, "--half"), emulated: true },
  {
    name: "weights in rows, bf16, own kernels",
    run: operations({ BATON_CUDA_PRODUCTS: "own" }, 5e-3, "--half", "--rows"),
    emulated: true,
  },
  { name: "weights in rows, bf16, cuBLASLt", run: byCublas, emulated: false },
  { name: "golden models", run: () => tests(["tests/golden/models_test.ts"]), emulated: true },
  {
    name: "golden models in bf16, and parity",
    run: () => tests(["tests/golden/half_test.ts"]),
    emulated: true,
  },
  { name: "PPO of two tiny layers, cuda:0 and cuda:0x4", run: () => tiny(), emulated: true },
  {
    name: "the same by NCCL, which needs 2.30.3",
    run: () => tiny({ BATON_CUDA_COLLECTIVES: "nccl" }),
    emulated: false,
  },
  { name: "operations, bf16", run: operations({ BATON_CUDA_MATH: "bf16" }, 4e-2), emulated: true },
  { name: "weights in rows, fp32", run: operations(FP32, 1e-5, "--rows"), emulated: true },
  {
    name: "operations, bf16 in memory, fp32 products",
    run: operations(FP32, 1e-5, "--half"),
    emulated: true,
  },
  {
    name: "operations, fp32, chains interpreted",
    run: operations({ ...FP32, BATON_CUDA_POINTWISE: "interpreter" }, 1e-5),
    emulated: true,
  },
  {
    name: "tests of operations",
    run: () => tests(operationTests()),
    emulated: true,
  },
  {
    name: "PPO of the couplets, cuda:0 and cuda:0x4",
    run: () => comparePpo(["examples/ppo.ts", "--steps", "3"]),
    emulated: false,
  },
  {
    name: "compute-sanitizer",
    run: sanitizer("matmul", "attention", "attentionGrad", "sample", "pagedAttention"),
    emulated: false,
  },
  {
    name: "compute-sanitizer, bf16 in rows",
    run: sanitizer("--half", "--rows", "matmul", "matmul3", "gatedMatmul"),
    emulated: false,
  },
];

if (import.meta.main) {
  Deno.addSignalListener("SIGTERM", () => {
    stopped.abort();
    Deno.exit(143);
  });
  const name = Deno.args.at(-1), check = CHECKS.find((c) => c.name === name);
  if (!check) throw new RangeError(`Cannot run ${name}: there are ${CHECKS.map((c) => c.name).join("; ")}`);
  const { passed, detail } = await check.run().catch((error: unknown): Found => ({
    passed: false,
    detail: (error instanceof Error ? error.message : String(error)).trim().split("\n").at(-1)!,
  }));
  if (passed) console.log(JSON.stringify({ what: detail }));
  else console.error(`error: ${detail}`);
  Deno.exit(passed ? 0 : 1);
}
