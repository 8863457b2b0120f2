/** What the engine samples: how often, from which tokens, and that neither slots, pages nor company change a sample. */
import assert from "node:assert/strict";
import { compileCopyPages, compileDecode, compileInfer, compilePrefill } from "../../compiler/compile.ts";
import { wholeShard } from "../../compiler/layout.ts";
import { Binding } from "../../engine/binding.ts";
import { streamKey } from "../../engine/random.ts";
import type { GenerateRequest, Response } from "../../engine/request.ts";
import { Rollout } from "../../engine/rollout.ts";
import { Device, DeviceSegment } from "../../ffi/device.ts";
import type { Sampling } from "../../ir/graph.ts";
import { type Maxima, PAGE } from "../../ir/op.ts";
import { ModelRunner, packed, random, writeBatch } from "../golden/model_runner.ts";
import { SAMPLING, tiny } from "../pure/compiler_fixtures.ts";

const VOCAB = 32;
const CONFIG = tiny({ vocab_size: VOCAB, tie_word_embeddings: true });
const NONE: Maxima = { one: 1, tokens: 0, actions: 0, sequences: 0, groups: 0, pairs: 0, shard: 0 };

function runnerOf(device: Device): ModelRunner {
  const runner = new ModelRunner(device, wholeShard(CONFIG, "lm")), next = random(23);
  for (const p of runner.parameters) {
    const [scale, shift] = p.matrix ? [0.5, 0] : [0.1, 1], n = p.shape.reduce((a, b) => a * b, 1);
    runner.write(p, Float32Array.from({ length: n }, () => shift + scale * next()));
  }
  return runner;
}

interface Cache {
  readonly slots: number;
  /** Pages of the whole cache; by default every slot holds its longest sequence. */
  readonly pages?: number;
  readonly maxNew: number;
  readonly prefillTokens?: number;
}

/** Runs a request with programs and a cache of the given sizes. */
async function draw(
  runner: ModelRunner,
  sampling: Partial<Sampling>,
  { slots, maxNew, pages, prefillTokens = 256 }: Cache,
  request: Partial<GenerateRequest> & Pick<GenerateRequest, "prompts">,
): Promise<Response[]> {
  const longest = Math.max(...request.prompts.map((p) => p.length)) + maxNew;
  const maxPages = Math.floor(longest / PAGE) + 1;
  const sizes = { slots, pages: pages ?? slots * maxPages, maxPages, maxNew, prefillTokens };
  const stops = Math.max(1, request.stops?.length ?? 0);
  const o = { stops, sampling: { ...SAMPLING, maxNewTokens: maxNew, ...sampling }, ...sizes };
  const decode = compileDecode(runner.shard, {
    ...o,
    maxima: { ...NONE, tokens: slots, sequences: slots },
  });
  const copyPages = compileCopyPages(runner.shard, {
    ...o,
    maxima: { ...NONE, tokens: slots, sequences: slots },
  });
  const prefill = compilePrefill(runner.shard, {
    ...o,
    maxima: { ...NONE, tokens: prefillTokens, actions: slots, sequences: slots },
  });
  using kv = new DeviceSegment(decode.segmentBytes.kv);
  using state = new DeviceSegment(Math.max(prefill.segmentBytes.state, decode.segmentBytes.state));
  const shared = { ...runner.segments, kv, state };
  const bound = [prefill, decode, copyPages].map((program) => new Binding(runner.device, program, shared));
  try {
    return await new Rollout(bound[0]!, bound[1]!, bound[2]!, { ...sizes, round: 4 }, {
      indices: request.prompts.map((_, i) => i),
      samples: 1,
      maxNewTokens: maxNew,
      stops: [],
      key: streamKey(5, "sampling"),
      maxPositions: CONFIG.maxPositions,
      ...request,
    }).run();
  } finally {
    for (const b of bound) b.dispose();
  }
}

/** log p(token | prefix) at a temperature for every token of the vocabulary, one row a prefix, as `infer` gives it. */
async function logprobsAfter(
  runner: ModelRunner,
  prefixes: readonly (readonly number[])[],
  temperature: number,
): Promise<Float32Array[]> {
  const batch = packed(prefixes), n = prefixes.length;
  const live = { ...batch.live, actions: n * VOCAB };
  const infer = runner.bind(compileInfer(runner.shard, {
    maxima: { ...NONE, ...live },
    outputs: ["logprobs"],
  }));
  const each = <T>(f: (row: number, token: number) => T) =>
    Array.from({ length: n * VOCAB }, (_, i) => f(Math.floor(i / VOCAB), i % VOCAB));
  const rows = each((row) => batch.ports.lastRows[row]!), targets = each((_, token) => token);
  writeBatch(infer, { ...batch, ports: { ...batch.ports, rows, targets } });
  infer.write("inputs/inverseTemperature", Float32Array.of(1 / temperature));
  await infer.run(live);
  const all = infer.read("outputs/logprobs", live);
  return prefixes.map((_, i) => all.slice(i * VOCAB, (i + 1) * VOCAB));
}

/** Pearson's statistic; cells that expect fewer than five are put together. */
function chiSquare(counts: readonly number[], p: readonly number[]): { value: number; cells: number } {
  const n = counts.reduce((a, b) => a + b, 0);
  let value = 0, cells = 0, restSeen = 0, restExpected = 0;
  const add = (seen: number, expected: number) => {
    value += (seen - expected) ** 2 / expected;
    cells++;
  };
  counts.forEach((seen, i) => {
    if (n * p[i]! >= 5) add(seen, n * p[i]!);
    else {
      restSeen += seen;
      restExpected += n * p[i]!;
    }
  });
  if (restExpected > 0) add(restSeen, restExpected);
  return { value, cells };
}

/** Fails where chance gives such counts less than about once in ten thousand (Wilson & Hilferty 1931). */
function assertDrawnFrom(counts: readonly number[], p: readonly number[], what: string): void {
  const { value, cells } = chiSquare(counts, p), freedom = cells - 1, spread = 2 / (9 * freedom);
  const limit = freedom * (1 - spread + 3.72 * Math.sqrt(spread)) ** 3;
  assert.ok(
    freedom >= 2 && value < limit,
    `${what}: chi-square ${value} of ${freedom} degrees, at most ${limit}`,
  );
}

const countsOf = (tokens: readonly number[]): number[] =>
  tokens.reduce((counts, t) => (counts[t]!++, counts), new Array<number>(VOCAB).fill(0));

const PROMPT = Int32Array.of(3, 14, 15, 9, 2, 6), DRAWS = 20_000;

/** The tokens that sampling may choose, by definition: the k likeliest, then the likeliest of mass p. */
function keptOf(logprobs: Float32Array, { topK, topP }: Pick<Sampling, "topK" | "topP">): Set<number> {
  let order = [...logprobs.keys()].sort((a, b) => logprobs[b]! - logprobs[a]! || a - b);
  if (topK) order = order.slice(0, topK);
  const mass = order.map((t) => Math.exp(logprobs[t]!)), all = mass.reduce((a, b) => a + b, 0);
  let sum = 0;
  const last = mass.findIndex((m) => (sum += m) >= topP * all);
  return new Set(topP < 1 && last >= 0 ? order.slice(0, last + 1) : order);
}

const CASES = [
  { temperature: 1, topK: 0, topP: 1 },
  { temperature: 0.6, topK: 0, topP: 1 },
  { temperature: 1.7, topK: 0, topP: 1 },
  { temperature: 1, topK: 5, topP: 1 },
  { temperature: 1, topK: 0, topP: 0.7 },
  { temperature: 1.3, topK: 12, topP: 0.8 },
];

for (const sampling of CASES) {
  Deno.test(`Generator samples from the softmax at ${JSON.stringify(sampling)}, cut and scaled as defined`, async () => {
    using device = Device.open({ threads: 2 });
    using runner = runnerOf(device);
    const [logprobs] = await logprobsAfter(runner, [[...PROMPT]], sampling.temperature);
    const kept = keptOf(logprobs!, sampling), counts = new Array<number>(VOCAB).fill(0);
    const made = await draw(runner, sampling, { slots: 100, maxNew: 1 }, {
      prompts: [PROMPT],
      samples: DRAWS,
    });
    assert.equal(made.length, DRAWS);
    for (const { tokens, logprobs: own } of made) {
      counts[tokens[0]!]!++;
      assert.ok(Object.is(own[0], logprobs![tokens[0]!]), "the log-probability is infer's, before cutting");
    }
    const mass = [...logprobs!].map((x, t) => kept.has(t) ? Math.exp(x) : 0);
    const all = mass.reduce((a, b) => a + b, 0);
    assert.deepEqual(counts.filter((n, t) => n > 0 && !kept.has(t)), [], "tokens outside the kept set");
    // With thousands of draws every kept token of some mass appears: the set is not smaller than it should be.
    for (const t of kept) assert.ok(counts[t]! > 0 || DRAWS * mass[t]! / all < 10, `token ${t} never came`);
    assertDrawnFrom(counts, mass.map((m) => m / all), "frequencies");
  });
}

Deno.test("Generator draws the second token independently of the first, and prompts of one step of one another", async () => {
  using device = Device.open({ threads: 2 });
  using runner = runnerOf(device);
  const first = [...(await logprobsAfter(runner, [[...PROMPT]], 1))[0]!].map(Math.exp);
  const after = await logprobsAfter(runner, first.map((_, t) => [...PROMPT, t]), 1);
  const second = first.map((_, b) => first.reduce((sum, p, a) => sum + p * Math.exp(after[a]![b]!), 0));
  const prompts = Array.from({ length: DRAWS / 4 }, () => PROMPT);
  const made = await draw(runner, {}, { slots: 64, maxNew: 2 }, { prompts, samples: 4 });
  assertDrawnFrom(countsOf(made.map((r) => r.tokens[0]!)), first, "first tokens");
  assertDrawnFrom(countsOf(made.map((r) => r.tokens[1]!)), second, "second tokens");
  // After the commonest first token, the second follows its own conditional distribution.
  const common = first.indexOf(Math.max(...first)), follow = made.filter((r) => r.tokens[0] === common);
  assertDrawnFrom(
    countsOf(follow.map((r) => r.tokens[1]!)),
    [...after[common]!].map(Math.exp),
    "conditional",
  );
  // Neighbouring samples agree as often as chance says: streams are not shared.
  const pairs = made.slice(1).filter((r, i) => r.tokens[0] === made[i]!.tokens[0]).length;
  const chance = first.reduce((sum, p) => sum + p * p, 0), n = made.length - 1;
  assert.ok(
    Math.abs(pairs - n * chance) < 4 * Math.sqrt(n * chance * (1 - chance)),
    `${pairs} of ${n}, ${chance}`,
  );
});

/** Prompts of uneven lengths, some longer than a page, and responses that stop at different times. */
const PROMPTS = (() => {
  const next = random(8), id = () => Math.floor((next() + 1) * VOCAB / 2);
  return [1, 7, 2 * PAGE, PAGE + 3, 5, PAGE - 1].map((n) => Int32Array.from({ length: n }, id));
})();

Deno.test("Generator makes the same tokens and log-probabilities whatever the slots, pages, prefills and company", async () => {
  using device = Device.open({ threads: 2 });
  using runner = runnerOf(device);
  const request = { prompts: PROMPTS, samples: 3, stops: [7, 11] }, maxNew = 40;
  const expected = await draw(runner, { topK: 20 }, { slots: 32, maxNew }, request);
  assert.ok(expected.some((r) => r.finished) && expected.some((r) => !r.finished), "both kinds of endings");
  const perSequence = Math.floor((2 * PAGE + maxNew) / PAGE) + 1;
  const caches: readonly Cache[] = [
    { slots: 1, maxNew },
    { slots: 3, maxNew, prefillTokens: 2 * PAGE + maxNew },
    { slots: 7, maxNew, pages: 2 * perSequence },
    { slots: 18, maxNew, pages: perSequence + 1, prefillTokens: 4 * PAGE },
    { slots: 4, maxNew, pages: perSequence },
  ];
  for (const cache of caches) {
    const made = await draw(runner, { topK: 20 }, cache, request);
    assert.deepEqual(made, expected, JSON.stringify(cache));
  }
  // A prompt alone, under the index that it had among the others.
  for (const [i, prompt] of PROMPTS.entries()) {
    const alone = await draw(runner, { topK: 20 }, { slots: 2, maxNew }, {
      ...request,
      prompts: [prompt],
      indices: [i],
    });
    assert.deepEqual(
      alone.map((r) => ({ ...r, prompt: i })),
      expected.slice(3 * i, 3 * i + 3),
      `prompt ${i} alone`,
    );
  }
});

Deno.test("Generator ends at the first stop token and keeps it, and without stops goes on as if it were any token", async () => {
  using device = Device.open({ threads: 2 });
  using runner = runnerOf(device);
  const cache = { slots: 8, maxNew: 30 }, stops = [4, 9];
  const request = { prompts: PROMPTS, samples: 4 };
  const stopped = await draw(runner, {}, cache, { ...request, stops });
  const whole = await draw(runner, {}, cache, request);
  assert.ok(whole.every((r) => r.tokens.length === 30 && !r.finished));
  stopped.forEach((r, i) => {
    const at = whole[i]!.tokens.findIndex((t) => stops.includes(t));
    assert.deepEqual(r.tokens, at < 0 ? whole[i]!.tokens : whole[i]!.tokens.slice(0, at + 1), `sample ${i}`);
    assert.deepEqual(r.logprobs, whole[i]!.logprobs.slice(0, r.tokens.length));
    assert.equal(r.finished, at >= 0);
  });
  assert.ok(stopped.filter((r) => r.finished).length > 4, "stop tokens come up");
});
