/**
 * Speed, one JSON line per case on stdout; each case runs in its own process, so that its memory is its own.
 *
 *     deno task bench [--size S|M|T] [--threads 1|2] [--strategy dp2] [--only REGEX] [--budget SECONDS] [--profile]
 *         [--floor] [--list]
 *
 * With a strategy the model cases run on as many virtual devices, which share the threads out.
 *
 * With --floor the first line says how fast the machine multiplies and reads, and every model case how near it is to its floor.
 *
 * With BATON_PEER, the path of a peers' benchmark with the same case names, every case alternates with the peer's and the
 * peer's better figure of one and as many threads is compared; BATON_PEER_PYTHON is its Python, python3 by default.
 */
import { parseArgs } from "node:util";
import { Devices } from "../engine/devices.ts";
import { parseStrategy } from "../ir/notation.ts";
import type { ParallelStrategy } from "../ir/plan.ts";
import { type Size, SIZES } from "./cases.ts";
import { measureRates, type Rates } from "./floor.ts";
import { peakRssMb } from "./measure.ts";
import { type CaseOptions, modelCase } from "./model_cases.ts";
import { comparePeer, peerOf } from "./peer.ts";
import { grpoStep, ppoStep, startToFirstStep } from "./workflow_cases.ts";

const GENERATE = ["b1", "b8", "b32"].flatMap((batch) =>
  ["greedy", "sample"].map((how) => `gen_${batch}_${how}`)
);
const CASES = [
  "train_step",
  "logprob",
  ...GENERATE,
  "ppo_step",
  "grpo_step",
  "trace_and_plan",
  "start_to_first_step",
];

const { values: flags } = parseArgs({
  options: {
    size: { type: "string", default: "S" },
    threads: { type: "string", default: "2" },
    strategy: { type: "string", default: "dp1" },
    only: { type: "string", default: "" },
    budget: { type: "string", default: "20" },
    repetitions: { type: "string", default: "10" },
    profile: { type: "boolean", default: false },
    floor: { type: "boolean", default: false },
    list: { type: "boolean", default: false },
    rates: { type: "string" },
    one: { type: "string" },
  },
});
const size = flags.size as Size, threads = Number(flags.threads);
if (!(size in SIZES)) {
  throw new RangeError(
    `Cannot run the benchmark: there is no size ${size}, use ${Object.keys(SIZES).join(", ")}`,
  );
}

const strategy = strategyOf(flags.strategy);

if (flags.list) console.log(CASES.join("\n"));
else if (flags.one) console.log(JSON.stringify(await one(flags.one)));
else {
  const wanted = CASES.filter((name) => new RegExp(flags.only).test(name)),
    peer = peerOf({ size, threads, budget: Number(flags.budget) });
  const rates = flags.floor ? ratesOfMachine() : undefined;
  if (rates) print({ name: "rates", threads, ...rates });
  for (const name of wanted) {
    const own = () => inOwnProcess(name, rates);
    print({
      name,
      size,
      threads,
      strategy: flags.strategy,
      ...(peer ? await comparePeer(peer, name, own) : await own()),
    });
  }
}

function strategyOf(text: string): ParallelStrategy {
  const parsed = parseStrategy(text);
  if (typeof parsed !== "string") return parsed;
  throw new RangeError(`Cannot run the benchmark: --strategy ${parsed}`);
}

function ratesOfMachine(): Rates {
  using devices = Devices.open({ count: 1, threads });
  return measureRates(devices.all[0]!);
}

async function one(name: string): Promise<object> {
  const started = performance.now(),
    limits = { repetitions: Number(flags.repetitions), warm: 1, budget: Number(flags.budget) };
  const result = await measured(name, {
    size,
    limits,
    profile: flags.profile,
    strategy,
    ...(flags.rates && { rates: JSON.parse(flags.rates) as Rates }),
  });
  return { ...result, peak_rss_mb: peakRssMb(), process_s: (performance.now() - started) / 1000 };
}

async function measured(name: string, o: CaseOptions): Promise<object> {
  if (name === "start_to_first_step") return startToFirstStep(threads, 5);
  const count = strategy.dp * strategy.tp * strategy.pp;
  using devices = Devices.open({ count, threads: Math.max(1, Math.floor(threads / count)) });
  if (name === "ppo_step") return await ppoStep(devices, o);
  return name === "grpo_step" ? await grpoStep(devices, o) : await modelCase(devices, name, o);
}

async function inOwnProcess(name: string, rates?: Rates): Promise<Record<string, unknown>> {
  const local = (script: string) => new URL(script, import.meta.url).pathname;
  const script = name === "trace_and_plan"
    ? [local("plan.ts")]
    : [local("bench.ts"), "--one", name, ...Deno.args, ...rates ? ["--rates", JSON.stringify(rates)] : []];
  const args = ["run", "-A", "--quiet", ...script];
  const { success, code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    stdout: "piped",
    stderr: "piped",
  })
    .output();
  const text = new TextDecoder();
  if (success) return JSON.parse(text.decode(stdout));
  return {
    error: text.decode(stderr).trim().split("\n").slice(0, 4).join(" ") || `it ended with code ${code}`,
  };
}

/** Five digits are more than any of these measurements has. */
function print(line: object): void {
  console.log(JSON.stringify(line, (_, x) => typeof x === "number" ? Number(x.toPrecision(5)) : x));
}
