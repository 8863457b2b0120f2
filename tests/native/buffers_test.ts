/** The buffer plan on the device: nothing outside a buffer is written, nothing unwritten is read, nothing is set aside in vain. */
import { RECOMPUTE } from "../../ir/plan.ts";
import assert from "node:assert/strict";
import { Device, DeviceSegment } from "../../ffi/device.ts";
import { compileInfer, compileTrain, type TrainOptions } from "../../compiler/compile.ts";
import { wholeShard } from "../../compiler/layout.ts";
import { bradleyTerry, ppoClip } from "../../dsl/losses.ts";
import type { Loss } from "../../dsl/loss.ts";
import type { Schema } from "../../ir/field.ts";
import type { Head } from "../../ir/graph.ts";
import type { Maxima } from "../../ir/op.ts";
import type { Program } from "../../ir/program.ts";
import { tiny } from "../pure/compiler_fixtures.ts";
import { ModelRunner, packed, random, sameBits, writeBatch } from "../golden/model_runner.ts";

const MAXIMA: Maxima = { one: 1, tokens: 96, actions: 80, sequences: 8, groups: 4, pairs: 4, shard: 0 };
const MODELS = [
  tiny({ vocab_size: 60, tie_word_embeddings: true }),
  tiny({ model_type: "qwen2", architectures: [], vocab_size: 60 }),
  tiny({
    model_type: "qwen3",
    architectures: [],
    head_dim: 8,
    vocab_size: 60,
    sliding_window: 7,
    use_sliding_window: true,
  }),
];
const device = Device.open({ threads: 2 });
const GUARD = 256, POISON = 0xff, FENCE = 0xa5; // 0xffffffff is NaN

const ppo: Loss<Head, Schema> = ppoClip({ epsilon: 0.2, entropy: 0.01, dualClip: 3 }),
  pairs: Loss<Head, Schema> = bradleyTerry();
const options = (loss: Loss<Head, Schema>, more: Partial<TrainOptions>): TrainOptions => ({
  maxima: MAXIMA,
  loss: loss.expr,
  fields: loss.reads,
  recompute: "nothing",
  ...more,
});

/** A program of `runner`'s model in an arena that the test can look into. */
function prepare(runner: ModelRunner, program: Program) {
  const arena = new DeviceSegment(program.segmentBytes.arena), binding = runner.bind(program, { arena });
  const run = async (sequences: readonly (readonly number[])[], seed: number) => {
    const next = random(seed), batch = packed(sequences);
    writeBatch(binding, batch);
    runner.zeroGradients();
    binding.zero("outputs");
    const perAction = () => Float32Array.from({ length: batch.live.actions }, next);
    for (const name of ["logprobs", "advantages"]) binding.offer(`inputs/field.${name}`, perAction());
    for (const per of ["token", "sequence", "pair"]) binding.offer(`inputs/count.${per}`, Float32Array.of(4));
    await binding.run({ ...batch.live, pairs: sequences.length / 2 });
  };
  /** Every output at the live dims, and every gradient. */
  const results = (sequences: readonly (readonly number[])[]) => {
    const { live } = packed(sequences);
    const outputs = Object.keys(program.ports).filter((name) => name.startsWith("outputs/"));
    return [
      ...outputs.map((name) => binding.read(name, { ...live, pairs: sequences.length / 2 })),
      runner.gradients(),
    ];
  };
  return { arena, run, results, read: () => arena.read(0, new Uint8Array(arena.bytes)) };
}

/** An even number of sequences that fit the largest dims, some of them short. */
function mix(next: () => number): number[][] {
  const length = (most: number) => 1 + Math.floor((next() + 1) / 2 * most), sequences: number[][] = [];
  let tokens = 0;
  for (const n = 2 * length(4); sequences.length < n;) {
    const size = Math.min(length(24), 80 - tokens - (n - sequences.length));
    sequences.push(Array.from({ length: Math.max(1, size) }, () => Math.floor((next() + 1) * 30)));
    tokens += sequences.at(-1)!.length;
  }
  return sequences;
}
/** Exactly the largest dims: 96 tokens and 80 actions in 8 sequences. */
function largest(): { sequences: number[][]; prompt: number } {
  const next = random(77);
  return {
    sequences: Array.from(
      { length: 8 },
      () => Array.from({ length: 12 }, () => Math.floor((next() + 1) * 30)),
    ),
    prompt: 2,
  };
}

function programs(model: typeof MODELS[number], guard?: number) {
  const fence = guard === undefined ? {} : { guard };
  return [
    [
      "lm",
      compileInfer(wholeShard(model, "lm"), { maxima: MAXIMA, outputs: ["logprobs", "entropy"], ...fence }),
    ],
    [
      "value",
      compileInfer(wholeShard(model, "value"), {
        maxima: MAXIMA,
        outputs: ["values", "finalValues"],
        ...fence,
      }),
    ],
    ["reward", compileTrain(wholeShard(model, "reward"), options(pairs, fence)).backward],
    ...RECOMPUTE.map((recompute) =>
      ["lm", compileTrain(wholeShard(model, "lm"), options(ppo, { recompute, ...fence })).backward] as const
    ),
  ] as const;
}
function runnerOf(model: typeof MODELS[number], head: Head): ModelRunner {
  const runner = new ModelRunner(device, wholeShard(model, head)), next = random(2);
  for (const p of runner.parameters) {
    runner.write(
      p,
      Float32Array.from(
        { length: p.shape.reduce((a, b) => a * b, 1) },
        () => 0.3 * next() + Number(p.init === "ones"),
      ),
    );
  }
  return runner;
}

Deno.test("programs give the same results in an arena full of NaN as in one full of zeros", async () => {
  const next = random(1);
  for (const model of MODELS) {
    for (const [head, program] of programs(model)) {
      using runner = runnerOf(model, head);
      const p = prepare(runner, program);
      for (let i = 0; i < 5; i++) {
        const sequences = mix(next);
        p.arena.fill(0, p.arena.bytes, 0);
        await p.run(sequences, i);
        const expected = p.results(sequences);
        p.arena.fill(0, p.arena.bytes, POISON);
        await p.run(sequences, i);
        p.results(sequences).forEach((x, k) => {
          assert.ok(sameBits(x, expected[k]!), `${program.name}: result ${k}`);
          assert.ok(x.every(Number.isFinite), `${program.name}: result ${k} is finite`);
        });
      }
      p.arena.dispose();
    }
  }
});

Deno.test("programs write nothing outside their buffers over 200 mixes of lengths", async () => {
  const next = random(9);
  let runs = 0;
  for (const model of MODELS) {
    for (const [head, program] of programs(model, GUARD)) {
      using runner = runnerOf(model, head);
      const p = prepare(runner, program), inside = new Uint8Array(p.arena.bytes);
      for (const row of program.table) {
        if (row.segment === "arena") inside.fill(1, row.offset, row.offset + row.bytes);
      }
      assert.ok(inside.indexOf(0) === 0 && inside.includes(1));
      for (let i = 0; i < 12; i++, runs++) {
        p.arena.fill(0, p.arena.bytes, FENCE);
        await p.run(mix(next), i);
        const bytes = p.read(), broken = bytes.findIndex((b, at) => !inside[at] && b !== FENCE);
        assert.equal(broken, -1, `${program.name} wrote at ${broken} of the arena`);
      }
      p.arena.dispose();
    }
  }
  assert.ok(runs >= 200, `${runs}`);
});

Deno.test("programs use at least 95 % of their arena at the largest lengths", async () => {
  const { sequences, prompt } = largest();
  assert.deepEqual(packed(sequences, prompt).live, {
    tokens: MAXIMA.tokens,
    actions: MAXIMA.actions,
    sequences: MAXIMA.sequences,
  });
  for (const model of MODELS) {
    for (const [head, program] of programs(model)) {
      using runner = runnerOf(model, head);
      const p = prepare(runner, program);
      const touched = new Uint8Array(p.arena.bytes);
      // A byte that happens to get the value that was there counts as untouched: two fills tell them apart.
      for (const byte of [POISON, FENCE]) {
        p.arena.fill(0, p.arena.bytes, byte);
        const binding = runner.bind(program, { arena: p.arena }), batch = packed(sequences, prompt);
        writeBatch(binding, batch);
        await binding.run({ ...batch.live, pairs: 4 });
        p.read().forEach((b, at) => touched[at]! |= Number(b !== byte));
      }
      const share = (touched.lastIndexOf(1) + 1) / p.arena.bytes;
      assert.ok(share >= 0.95, `${program.name}: ${share}`);
      p.arena.dispose();
    }
  }
});
