/** Part of `deno task bench:gpu`: `gpu_steps.ts CASE` runs whole steps of one case in bf16 and says how they stand to their floor. */
import { batchOf } from "../engine/batch.ts";
import { Devices } from "../engine/devices.ts";
import type { Sample } from "../engine/sample.ts";
import type { Stage } from "../engine/stage.ts";
import { describe } from "../ffi/device.ts";
import type { DataSizes } from "../compiler/programs.ts";
import type { Recompute } from "../ir/plan.ts";
import { adamw, conversations, models, policyModel, prompts, sft, type Workflow, workflow } from "../mod.ts";
import { type BenchLayout, benchSequences, benchStage, promptRows, sequenceRows } from "./cases.ts";
import { floorSeconds } from "./gpu_floor.ts";
import { grpoFlow, grpoSizes } from "./gpu_flows.ts";
import { parameterCount, randomWeights, type Shape, shapeConfig } from "./gpu_models.ts";

/** Dense bf16 of a H100 and H200 by their data sheet: what MFU is measured against. */
const SHEET = 989e12;
const REPETITIONS = 3;

const devices = Devices.open({ count: 1, threads: 1, gpus: [0] }), device = devices.all[0]!;
const small = describe().gpus?.[0]?.name === "emulation";
const round = (x: number) => Number(x.toPrecision(3));
const median = (xs: readonly number[]) => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;
const print = (line: { readonly what: string; readonly [key: string]: unknown }) =>
  console.log(JSON.stringify(line));

interface Steps {
  readonly seconds: number;
  readonly best: number;
  /** Of the last step, by call. */
  readonly calls: Readonly<Record<string, number>>;
}

async function steps(
  shape: Shape,
  flow: Workflow,
  rows: readonly Sample[],
  sizes: DataSizes,
  layout: BenchLayout = {},
  repetitions = REPETITIONS,
): Promise<Steps> {
  const config = shapeConfig(shape, sizes.longest);
  const stage: Stage = await benchStage(devices, flow, config, sizes, {
    ...layout,
    load: () => Promise.resolve(),
  });
  await randomWeights(stage, device);
  const times: number[] = [];
  let calls: Readonly<Record<string, number>> = {};
  for (let i = 0; i <= repetitions; i++) {
    const start = performance.now();
    ({ seconds: calls } = await stage.step(
      i,
      batchOf(rows, flow.graph.calls[0]!.kind === "generate" ? samplesOf(flow) : 1),
    ));
    if (i > 0) times.push((performance.now() - start) / 1000);
  }
  stage.dispose(), stage.engine.dispose();
  return { seconds: median(times), best: Math.min(...times), calls };
}
const samplesOf = (flow: Workflow): number => {
  const [first] = flow.graph.calls;
  return first?.kind === "generate" ? first.sampling.samples : 1;
};

const whole = (rows: number, length: number): DataSizes => ({
  sequences: rows,
  group: 1,
  longestPrompt: 0,
  longest: length,
  longestResponse: length - 1,
});

/** Operations of a forward pass as MFU counts them: two a parameter, and attention over half of the context on average. */
const forwardFlops = (shape: Shape, tokens: number, length: number): number => {
  const c = shapeConfig(shape, length);
  return tokens * (2 * parameterCount(c) + 2 * c.layers * c.heads * c.headDim * length);
};

async function train(shape: Shape, recompute: Recompute): Promise<void> {
  const [rows, length] = small ? [2, 24] : [4, 4096];
  const { actor } = models({ actor: policyModel("random", adamw({ lr: 1e-5 })) });
  const flow = workflow({
    name: "train",
    data: conversations("random.jsonl", { batch: rows }),
    flow: actor.train(sft()),
  });
  const data = sequenceRows(benchSequences(shapeConfig(shape, length), rows, length)), tokens = rows * length;
  const { seconds } = await steps(shape, flow, data, whole(rows, length), {
    microBatchTokens: length,
    recompute,
  });
  const flops = 3 * forwardFlops(shape, tokens, length), floor = floorSeconds({ flops, bytes: 0 });
  print({
    what: `${round(tokens / seconds)} tokens/s, MFU ${round(100 * flops / seconds / SHEET)} %, ${
      round(100 * floor / seconds)
    } % of the floor`,
    seconds,
    floor,
    tokens,
    tokensPerSecond: tokens / seconds,
    mfu: flops / seconds / SHEET,
  });
}

async function logprob(shape: Shape): Promise<void> {
  const [rows, length] = small ? [2, 24] : [4, 4096];
  const { ref } = models({ ref: policyModel("random") });
  const flow = workflow({
    name: "logprob",
    data: conversations("random.jsonl", { batch: rows }),
    flow: ref.infer(),
  });
  const data = sequenceRows(benchSequences(shapeConfig(shape, length), rows, length)), tokens = rows * length;
  const { seconds } = await steps(shape, flow, data, whole(rows, length), { microBatchTokens: length });
  const flops = forwardFlops(shape, tokens, length);
  print({
    what: `${round(tokens / seconds)} tokens/s, MFU ${round(100 * flops / seconds / SHEET)} %`,
    seconds,
    tokensPerSecond: tokens / seconds,
    mfu: flops / seconds / SHEET,
  });
}

/** A decode step at 1k tokens of context: what a few more of them add to a generation. */
async function decode(shape: Shape, batch: number): Promise<void> {
  const [prompt, few, many] = small ? [20, 2, 24] : [960, 32, 96];
  const seconds: number[] = [];
  for (const maxNewTokens of [few, many]) {
    const { actor } = models({ actor: policyModel("random") });
    const flow = workflow({
      name: "generate",
      data: prompts("random.jsonl", { batch }),
      flow: actor.generate({ maxNewTokens, ignoreEos: true }),
    });
    const sizes = {
      sequences: batch,
      group: 1,
      longestPrompt: prompt,
      longest: prompt + maxNewTokens,
      longestResponse: maxNewTokens,
    };
    const data = promptRows(benchSequences(shapeConfig(shape, sizes.longest), batch, prompt));
    seconds.push((await steps(shape, flow, data, sizes)).best);
  }
  const c = shapeConfig(shape, prompt + many), step = (seconds[1]! - seconds[0]!) / (many - few);
  const context = prompt + (few + many) / 2, weights = parameterCount(c) - (c.tied ? 0 : c.vocab * c.hidden);
  const bytes = 2 * weights + 4 * batch * context * c.layers * c.kvHeads * c.headDim,
    floor = floorSeconds({ flops: 0, bytes });
  print({
    what: `${round(step * 1e3)} ms a step, ${round(batch / step)} tokens/s, ${
      round(100 * floor / step)
    } % of the floor`,
    seconds: step,
    floor,
    tokensPerSecond: batch / step,
  });
}

async function grpoStep(shape: Shape): Promise<void> {
  const [count, samples, prompt, response] = small ? [2, 2, 6, 6] : [64, 8, 128, 512];
  const flow = grpoFlow({ count, samples, response });
  const sizes = grpoSizes({ count, samples, prompt, response });
  const data = promptRows(benchSequences(shapeConfig(shape, sizes.longest), count, prompt));
  const { seconds, calls } = await steps(
    shape,
    flow,
    data,
    sizes,
    { microBatchTokens: small ? 60 : 16384 },
    1,
  );
  const split = Object.entries(calls).map(([id, s]) => `${id} ${round(s)}`).join(", ");
  print({ what: `${round(seconds)} s a step: ${split}`, seconds, calls });
}

/** By name. */
const CASES: Readonly<Record<string, () => Promise<void>>> = small
  ? {
    "train 1.7B": () => train("tiny", "nothing"),
    "train 8B": () => train("tiny", "layers"),
    "logprob 8B": () => logprob("tiny"),
    "decode 8B x1": () => decode("tiny", 1),
    "grpo 1.7B": () => grpoStep("tiny"),
  }
  : {
    "train 1.7B": () => train("1.7B", "nothing"),
    "train 8B": () => train("8B", "layers"),
    "logprob 8B": () => logprob("8B"),
    ...Object.fromEntries(
      (["0.6B", "1.7B", "8B"] as const).flatMap((shape) =>
        [1, 64, 256].map((batch) => [`decode ${shape} x${batch}`, () => decode(shape, batch)])
      ),
    ),
    "grpo 1.7B": () => grpoStep("1.7B"),
  };

const run = CASES[Deno.args[0] ?? ""];
if (!run) throw new RangeError(`Cannot run ${Deno.args[0]}: there are ${Object.keys(CASES).join(", ")}`);
await run();
Deno.exit(0);
