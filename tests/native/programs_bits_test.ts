/** What must not change a bit: micro-batches, packing, recomputation, threads, the largest dims, and decoding one by one. */
import assert from "node:assert/strict";
import { Device } from "../../ffi/device.ts";
import { compileFold, compileInfer, compileTrain, type TrainOptions } from "../../compiler/compile.ts";
import { wholeShard } from "../../compiler/layout.ts";
import type { ModelConfig } from "../../compiler/models/config.ts";
import { bradleyTerry, ppoClip } from "../../dsl/losses.ts";
import type { Loss } from "../../dsl/loss.ts";
import type { Schema } from "../../ir/field.ts";
import type { Head } from "../../ir/graph.ts";
import { PAGE } from "../../ir/op.ts";
import { MAXIMA, tiny } from "../pure/compiler_fixtures.ts";
import { generate } from "../golden/generation.ts";
import { fold, ModelRunner, packed, random, sameBits, writeBatch } from "../golden/model_runner.ts";

const CONFIG = tiny({
  model_type: "qwen3",
  architectures: [],
  head_dim: 16,
  tie_word_embeddings: true,
  attention_bias: true,
});
const LENGTHS = [30, 9, 17, 2, 24, 5, 3, 12];
const SEQUENCES = (() => {
  const next = random(5);
  return LENGTHS.map((n) => Array.from({ length: n }, () => Math.floor((next() + 1) * 50)));
})();
const LARGE = { ...MAXIMA, tokens: 128, actions: 128 };

function runnerOf(device: Device, config: ModelConfig, head: Head): ModelRunner {
  const runner = new ModelRunner(device, wholeShard(config, head)), next = random(11);
  for (const p of runner.parameters) {
    const scale = p.matrix ? 0.2 : 0.1, shift = p.init === "ones" ? 1 : 0;
    const n = p.shape.reduce((a, b) => a * b, 1);
    runner.write(p, Float32Array.from({ length: n }, () => shift + scale * next()));
  }
  return runner;
}

interface Training {
  readonly device: Device;
  readonly head: Head;
  readonly loss: Loss<Head, Schema>;
  readonly config?: ModelConfig;
  /** Sequences of each micro-batch. */
  readonly cuts: readonly number[];
  readonly options?: Partial<TrainOptions>;
}
/** Gradients and results of one mini-batch of all sequences. */
async function train(t: Training) {
  using runner = runnerOf(t.device, t.config ?? CONFIG, t.head);
  const options: TrainOptions = {
    maxima: LARGE,
    loss: t.loss.expr,
    fields: t.loss.reads,
    recompute: "nothing",
    ...t.options,
  };
  const program = runner.bind(compileTrain(runner.shard, options).backward), next = random(3);
  const whole = packed(SEQUENCES), old = Float32Array.from({ length: whole.live.actions }, () => next() - 4);
  const advantages = old.map(() => 2 * next());
  program.zero("outputs");
  program.offer("inputs/count.token", Float32Array.of(whole.live.actions));
  program.offer("inputs/count.pair", Float32Array.of(SEQUENCES.length / 2));
  let at = 0, actions = 0;
  for (const n of t.cuts) {
    const batch = packed(SEQUENCES.slice(at, at + n)), to = actions + batch.live.actions;
    writeBatch(program, batch);
    program.offer("inputs/field.logprobs", old.slice(actions, to));
    program.offer("inputs/field.advantages", advantages.slice(actions, to));
    await program.run({ ...batch.live, pairs: n / 2 });
    at += n;
    actions = to;
  }
  const scalars = await fold(program, compileFold(t.loss.expr, t.loss.reads));
  return [runner.gradients(), Float32Array.from(Object.values(scalars))];
}
const assertSame = (a: readonly Float32Array[], b: readonly Float32Array[], what: string) => {
  assert.equal(a.length, b.length);
  a.forEach((x, i) => assert.ok(sameBits(x, b[i]!), `${what}: tensor ${i} differs`));
};

const one = Device.open({ threads: 1 }), two = Device.open({ threads: 2 });
const ppo: Loss<Head, Schema> = ppoClip({ epsilon: 0.2, entropy: 0.01 });

Deno.test("gradients, loss and metrics do not depend on micro-batches", async () => {
  const whole = await train({ device: one, head: "lm", loss: ppo, cuts: [8] });
  for (const x of whole) assert.ok(x.every(Number.isFinite) && x.some((v) => v !== 0));
  for (const cuts of [[3, 3, 2], [1, 1, 1, 1, 1, 1, 1, 1], [7, 1], [2, 0, 6]]) {
    assertSame(await train({ device: one, head: "lm", loss: ppo, cuts }), whole, `micro-batches of ${cuts}`);
  }
});

Deno.test("gradients of a reward model do not depend on micro-batches of pairs", async () => {
  const loss: Loss<Head, Schema> = bradleyTerry();
  const whole = await train({ device: one, head: "reward", loss, cuts: [8] });
  assertSame(await train({ device: one, head: "reward", loss, cuts: [2, 4, 2] }), whole, "pairs");
});

Deno.test("gradients do not depend on recomputation, threads or the largest dims", async () => {
  const configs = [
    CONFIG,
    tiny({ model_type: "qwen2", architectures: [] }),
    tiny({ attention_bias: true, mlp_bias: true }),
  ];
  for (const config of configs) {
    const plain = await train({ device: one, head: "lm", loss: ppo, cuts: [8], config });
    const of = (device: Device, options: Partial<TrainOptions>) =>
      train({ device, head: "lm", loss: ppo, cuts: [8], config, options });
    assertSame(await of(one, { recompute: "logits" }), plain, "logits made again");
    assertSame(await of(one, { recompute: "cheap" }), plain, "cheap recomputation");
    assertSame(await of(two, { recompute: "layers" }), plain, "recomputation of layers on two threads");
    assertSame(
      await of(two, { maxima: { ...LARGE, tokens: 1000, actions: 700, sequences: 20 } }),
      plain,
      "larger dims",
    );
  }
});

Deno.test("log-probabilities, values and rewards do not depend on packing", async () => {
  for (
    const [head, outputs] of [["lm", ["logprobs", "entropy"]], ["value", ["values", "finalValues"]], [
      "reward",
      ["rewards"],
    ]] as const
  ) {
    using runner = runnerOf(one, CONFIG, head);
    const infer = runner.bind(compileInfer(runner.shard, { maxima: LARGE, outputs }));
    const run = async (sequences: readonly (readonly number[])[]) => {
      const batch = packed(sequences);
      writeBatch(infer, batch);
      await infer.run(batch.live);
      return outputs.map((name) => infer.read(`outputs/${name}`, batch.live));
    };
    const together = await run(SEQUENCES), alone: number[][] = outputs.map(() => []);
    for (const s of SEQUENCES) (await run([s])).forEach((x, i) => alone[i]!.push(...x));
    assertSame(together, alone.map((x) => Float32Array.from(x)), head);
  }
});

Deno.test("a final value is the value before the next action, and a reward the value after the last token", async () => {
  using value = runnerOf(one, CONFIG, "value");
  const outputs = ["values", "finalValues"] as const;
  const infer = value.bind(
    compileInfer(value.shard, { maxima: { ...LARGE, tokens: 200, actions: 200 }, outputs }),
  );
  const run = async (sequences: readonly (readonly number[])[]) => {
    const batch = packed(sequences);
    writeBatch(infer, batch);
    await infer.run(batch.live);
    return {
      values: infer.read("outputs/values", batch.live),
      finals: infer.read("outputs/finalValues", batch.live),
      batch,
    };
  };
  const { finals } = await run(SEQUENCES), longer = await run(SEQUENCES.map((s) => [...s, 7]));
  assert.ok(
    sameBits(finals, Float32Array.from(longer.batch.ports.actionEnds, (end) => longer.values[end - 1]!)),
  );

  // The same parameters, read as a reward model.
  using reward = new ModelRunner(one, wholeShard(CONFIG, "reward"));
  for (const p of reward.parameters) reward.write(p, value.read(p, "params"));
  const rewards = reward.bind(
      compileInfer(reward.shard, { maxima: LARGE, outputs: ["rewards"] }),
    ),
    batch = packed(SEQUENCES);
  writeBatch(rewards, batch);
  await rewards.run(batch.live);
  assert.ok(sameBits(rewards.read("outputs/rewards", batch.live), finals));
});

Deno.test("log-probabilities of sampled tokens are those of inference, to the bit", async () => {
  const families = {
    llama: {},
    qwen2: {},
    qwen3: { head_dim: 16, tie_word_embeddings: true },
    mistral: { sliding_window: 5 },
  };
  for (const [model_type, more] of Object.entries(families)) {
    const config = tiny({ model_type, architectures: [], ...more });
    using runner = runnerOf(two, config, "lm");
    const prompts = [SEQUENCES[0]!.slice(0, PAGE), SEQUENCES[1]!, SEQUENCES[3]!, SEQUENCES[2]!], steps = 20;
    const [sampled] = await generate([[runner]], prompts, steps, 1);
    const infer = runner.bind(
      compileInfer(runner.shard, {
        maxima: { ...LARGE, tokens: 200, actions: 200 },
        outputs: ["logprobs"],
      }),
    );
    for (const [i, { tokens, logprobs }] of sampled!.entries()) {
      const batch = packed([[...prompts[i]!, ...tokens]], prompts[i]!.length);
      writeBatch(infer, batch);
      await infer.run(batch.live);
      assert.ok(
        sameBits(infer.read("outputs/logprobs", batch.live), logprobs),
        `${model_type}, sequence ${i}`,
      );
    }
    const [alone] = await generate([[runner]], prompts.slice(1, 2), steps, 0),
      [all] = await generate([[runner]], prompts, steps, 0);
    assert.deepEqual(
      alone![0]!.tokens,
      all![1]!.tokens,
      "greedy tokens do not depend on the other sequences",
    );
  }
});

Deno.test("a sliding window hides exactly the tokens before it", async () => {
  const config = tiny({ model_type: "mistral", architectures: [], sliding_window: 4, num_hidden_layers: 1 });
  using runner = runnerOf(one, config, "lm");
  const infer = runner.bind(compileInfer(runner.shard, { maxima: LARGE, outputs: ["logprobs"] }));
  const run = async (first: number) => {
    const batch = packed([[first, ...SEQUENCES[4]!.slice(1, 12)]]);
    writeBatch(infer, batch);
    await infer.run(batch.live);
    return infer.read("outputs/logprobs", batch.live);
  };
  // Action a is predicted by row a, which sees rows a − 3 … a.
  const [a, b] = [await run(7), await run(8)];
  a.forEach((x, i) => assert.equal(x === b[i], i > 3, `action ${i}`));
});
