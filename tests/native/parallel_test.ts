/** Every layout of a model against one device: what it says, its gradients, three updates, what it samples. */
import assert from "node:assert/strict";
import { ppoClip, valueClip } from "../../dsl/losses.ts";
import type { Loss } from "../../dsl/loss.ts";
import type { Schema } from "../../ir/field.ts";
import type { Head } from "../../ir/graph.ts";
import type { Maxima } from "../../ir/op.ts";
import { layoutViolations } from "../../compiler/layout.ts";
import { parameters } from "../../compiler/models/transformer.ts";
import { NO_ROWS } from "../../compiler/shape.ts";
import type { ModelConfig } from "../../compiler/models/config.ts";
import { ADAMW, tiny } from "../pure/compiler_fixtures.ts";
import { generate } from "../golden/generation.ts";
import { packed, random, relativeError, sameBits } from "../golden/model_runner.ts";
import { checkFences, type Layout, type MicroBatch, Ranks, type Tensors } from "./ranks.ts";

const ODD = { num_hidden_layers: 3, vocab_size: 515, intermediate_size: 72, head_dim: 8 };
const heads = (num_attention_heads: number, num_key_value_heads: number) => ({
  num_attention_heads,
  num_key_value_heads,
});
/** Nothing that is split divides: 515 tokens, 72 intermediate columns; with and without what a model can have. */
const MODELS: Readonly<Record<string, ModelConfig>> = {
  llama: tiny({ ...ODD, ...heads(4, 2) }),
  "tied qwen2": tiny({
    ...ODD,
    ...heads(6, 2),
    model_type: "qwen2",
    architectures: [],
    tie_word_embeddings: true,
  }),
  "tied qwen3 with biases": tiny({
    ...ODD,
    ...heads(6, 3),
    model_type: "qwen3",
    architectures: [],
    attention_bias: true,
    tie_word_embeddings: true,
  }),
};
const layout = (dp: number, tp: number, pp: number, more: Partial<Layout> = {}): Layout => ({
  strategy: { dp, tp, pp },
  ...more,
});
const name = ({ strategy: { dp, tp, pp }, zero, recompute }: Layout) =>
  `dp${dp}·tp${tp}·pp${pp}${zero ? " zero" : ""}${recompute ? ` recomputing ${recompute}` : ""}`;

function weights(config: ModelConfig, head: Head): Tensors {
  const next = random(11);
  return new Map(
    parameters(config, head).map((p) => {
      const scale = p.matrix ? 0.2 : 0.1, shift = p.init === "ones" ? 1 : 0;
      const n = p.shape.reduce((a, b) => a * b, 1);
      return [p.name, Float32Array.from({ length: n }, () => shift + scale * next())];
    }),
  );
}

const LENGTHS = [30, 9, 17, 2, 24, 5, 3, 12];
const SEQUENCES = (() => {
  const next = random(5);
  return LENGTHS.map((n) => Array.from({ length: n }, () => Math.floor((next() + 1) * 257)));
})();
const OLD = (() => {
  const next = random(3);
  return SEQUENCES.map((s) => s.slice(1).map(() => [next() - 6, 2 * next()] as const));
})();
const TOKENS = 128;
const maxima = (tp: number): Maxima => ({
  ...NO_ROWS,
  tokens: TOKENS,
  actions: TOKENS,
  sequences: 8,
  groups: 4,
  pairs: 4,
  shard: tp > 1 ? Math.ceil(TOKENS / tp) : 0,
});
/** Every action's target and some other tokens, up to `kept`. */
const keptOf = (targets: readonly number[], kept: number): number[] =>
  targets.flatMap((target) =>
    Array.from({ length: kept }, (_, j) => j > target % kept ? -1 : (target + 97 * j) % 515)
  );
/** A micro-batch of some of the sequences. */
function batchOf(sequences: readonly number[], kept = 0): MicroBatch {
  const column = (i: 0 | 1) => Float32Array.from(sequences.flatMap((s) => OLD[s]!.map((row) => row[i])));
  const fields = { logprobs: column(0), advantages: column(1), values: column(0), returns: column(1) };
  const { live, ports } = packed(sequences.map((s) => SEQUENCES[s]!));
  return { live, ports: { ...ports, ...(kept && { kept: keptOf(ports.targets, kept) }) }, fields };
}
/** Neighbours for every data-parallel rank. */
const shares = (dp: number): number[][] =>
  Array.from({ length: dp }, (_, d) => [0, 1, 2, 3, 4, 5, 6, 7].slice(8 * d / dp, 8 * (d + 1) / dp));
const concat = (parts: readonly Float32Array[]) => Float32Array.from(parts.flatMap((x) => [...x]));

function ranksOf(config: ModelConfig, head: Head, l: Layout): Ranks {
  const ranks = new Ranks(config, head, l);
  ranks.load(weights(config, head));
  return ranks;
}

async function infer(config: ModelConfig, head: Head, l: Layout) {
  using ranks = ranksOf(config, head, l);
  const outputs = head === "lm" ? ["logprobs", "entropy"] as const : ["values", "finalValues"] as const;
  const { dp, tp } = l.strategy;
  const results = await ranks.infer(outputs, maxima(tp), shares(dp).map((s) => batchOf(s, l.kept)));
  if (l.guard !== undefined) assert.ok(checkFences() > 0);
  return outputs.map((output) => concat(results.map((r) => r[output]!)));
}

const LOSSES: Readonly<Record<"lm" | "value", Loss<Head, Schema>>> = {
  lm: ppoClip({ epsilon: 0.2, entropy: 0.01 }),
  value: valueClip(),
};
async function train(config: ModelConfig, head: "lm" | "value", l: Layout) {
  using ranks = ranksOf(config, head, l);
  const { dp, tp } = l.strategy, loss = LOSSES[head];
  const trainer = ranks.train({
    loss: loss.expr,
    fields: loss.reads,
    maxima: maxima(tp),
    optimizer: { ...ADAMW, clip: 1 },
  });
  // Three micro-batches for every rank: the second has fewer tokens than ranks, or none.
  const micro = shares(dp).map((s) =>
    [s.slice(0, 3), s.slice(3, 4), s.slice(4)].map((part) => batchOf(part, l.kept))
  );
  const counts = { token: LENGTHS.reduce((n, length) => n + length - 1, 0), sequence: 8 };
  const metrics: Record<string, number>[] = [], norms: number[] = [];
  let gradients: Tensors | undefined;
  for (let n = 1; n <= 3; n++) {
    metrics.push(await trainer.accumulate(micro, counts));
    gradients ??= ranks.gradients();
    norms.push(await trainer.update(n));
  }
  if (l.guard !== undefined) assert.ok(checkFences() > 0);
  return { metrics, norms, gradients: gradients!, parameters: ranks.parameters() };
}

/** The largest difference over the largest magnitude. */
function difference(a: Float32Array, b: Float32Array): number {
  assert.equal(a.length, b.length);
  const largest = b.reduce((m, x) => Math.max(m, Math.abs(x)), 1e-30);
  return a.reduce((m, x, i) => Math.max(m, Math.abs(x - b[i]!)), 0) / largest;
}
/** What all compare with. */
const ONE = layout(1, 1, 1);

/** Tensor-parallel widths that the heads of a model allow: uneven shares of heads, and key and value heads that several have. */
const widths = (config: ModelConfig): number[] =>
  [2, 3, 4].filter((tp) => !layoutViolations(config, { tp, pp: 1 }).length);

for (const [model, config] of Object.entries(MODELS)) {
  for (const head of ["lm", "value"] as const) {
    Deno.test(`what the ${head} head of ${model} says does not depend on dp and pp, and hardly on tp`, async () => {
      const expected = await infer(config, head, ONE);
      for (const l of [layout(2, 1, 1), layout(1, 1, 2), layout(1, 1, 3), layout(2, 1, 3), layout(8, 1, 1)]) {
        const got = await infer(config, head, l);
        got.forEach((x, i) => assert.ok(sameBits(x, expected[i]!), `${name(l)}: output ${i}`));
      }
      for (const tp of widths(config)) {
        for (const l of [layout(1, tp, 1), layout(1, tp, 2), ...(tp < 4 ? [layout(2, tp, 1)] : [])]) {
          const got = await infer(config, head, l);
          got.forEach((x, i) => {
            const error = difference(x, expected[i]!);
            assert.ok(error < 1e-5, `${name(l)}: output ${i} differs by ${error}`);
          });
        }
      }
    });

    Deno.test(`gradients and three updates of the ${head} head of ${model} are those of one device in every layout`, async () => {
      const expected = await train(config, head, ONE);
      const layouts = [
        ...[
          layout(1, 1, 2),
          layout(1, 1, 3),
          layout(1, 1, 2, { recompute: "cheap" }),
          layout(1, 1, 3, { recompute: "layers" }),
        ],
        ...[layout(2, 1, 1), layout(2, 1, 1, { zero: 1 }), layout(4, 1, 2, { zero: 1 })],
        ...widths(config).flatMap((tp) => [
          layout(1, tp, 1),
          layout(1, tp, 1, { recompute: "cheap" }),
          layout(1, tp, 2, { recompute: "layers" }),
          layout(2, tp, 1, { zero: 1 }),
        ]),
        layout(2, 2, 2, { zero: 1, recompute: "cheap" }),
      ];
      for (const l of layouts) {
        const got = await train(config, head, l), exact = l.strategy.dp * l.strategy.tp === 1;
        const compare = (what: string, a: Float32Array, b: Float32Array, limit: number) => {
          const error = exact ? Number(!sameBits(a, b)) : relativeError(a, b);
          assert.ok(error <= (exact ? 0 : limit), `${name(l)}: ${what} differs by ${error}`);
        };
        for (const [p, g] of expected.gradients) compare(`gradient of ${p}`, got.gradients.get(p)!, g, 1e-5);
        for (const [p, w] of expected.parameters) {
          // Gradients of key biases are nearly zero; Adam turns their rounding into steps.
          compare(p, got.parameters.get(p)!, w, p.endsWith("k_proj.bias") ? 1e-3 : 1e-5);
        }
        compare("gradient norm", Float32Array.from(got.norms), Float32Array.from(expected.norms), 1e-5);
        expected.metrics.forEach((m, i) =>
          compare(
            "metrics",
            Float32Array.from(Object.values(got.metrics[i]!)),
            Float32Array.from(Object.values(m)),
            1e-4,
          )
        );
      }
    });
  }

  Deno.test(`${model} samples the same tokens under tp and pp`, async () => {
    const prompts = [0, 1, 3, 2].map((i) => SEQUENCES[i]!), steps = 20;
    const sample = async (l: Layout, temperature: number) => {
      using ranks = ranksOf(config, "lm", l);
      return await generate(ranks.pipeline(0), prompts, steps, temperature);
    };
    for (const temperature of [0, 1]) {
      const [expected] = await sample(ONE, temperature);
      for (
        const l of [
          layout(1, 1, 2),
          layout(1, 1, 3),
          ...widths(config).flatMap((tp) => [layout(1, tp, 1), layout(1, tp, 2)]),
        ]
      ) {
        for (const shard of await sample(l, temperature)) {
          shard.forEach(({ tokens, logprobs }, i) => {
            const what = `${name(l)}, temperature ${temperature}, sequence ${i}`;
            assert.deepEqual(tokens, expected![i]!.tokens, what);
            if (l.strategy.tp === 1) assert.ok(sameBits(logprobs, expected![i]!.logprobs), what);
            else assert.ok(difference(logprobs, expected![i]!.logprobs) < 1e-5, what);
          });
        }
      }
    }
  });
}

Deno.test("what is said of kept tokens, and their gradients, do not depend on the layout", async () => {
  const kept = 6, one = layout(1, 1, 1, { kept });
  for (const config of [MODELS.llama!, MODELS["tied qwen2"]!]) {
    const said = await infer(config, "lm", one), learned = await train(config, "lm", one);
    assert.ok(!sameBits(said[0]!, (await infer(config, "lm", ONE))[0]!), "the kept tokens are not all");
    for (const l of [[2, 1, 1], [1, 1, 3], [1, 2, 1], [2, 2, 2]] as const) {
      const [dp, tp, pp] = l, at = layout(dp, tp, pp, { kept, guard: 256 }), exact = tp === 1;
      (await infer(config, "lm", at)).forEach((x, i) => {
        const error = difference(x, said[i]!);
        assert.ok(
          exact ? sameBits(x, said[i]!) : error < 1e-5,
          `${name(at)}: output ${i} differs by ${error}`,
        );
      });
      const got = await train(config, "lm", at);
      for (const [p, g] of learned.gradients) {
        const error = relativeError(got.gradients.get(p)!, g);
        assert.ok(error < 1e-5, `${name(at)}: gradient of ${p} differs by ${error}`);
      }
    }
  }
});

Deno.test("programs of every rank write nothing outside their buffers", async () => {
  for (const config of Object.values(MODELS)) {
    const [tp] = widths(config).slice(-1) as [number];
    for (const [dp, t, pp, zero] of [[1, tp, 1, 0], [2, 1, 3, 1], [2, 2, 2, 1], [1, 2, 3, 0]] as const) {
      for (const recompute of ["nothing", "layers"] as const) {
        const open = layout(dp, t, pp, { zero, recompute }), fenced = { ...open, guard: 256 };
        assert.deepEqual(await infer(config, "lm", fenced), await infer(config, "lm", open));
        assert.deepEqual(await train(config, "lm", fenced), await train(config, "lm", open));
      }
    }
  }
});
