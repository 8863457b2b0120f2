/** The rollout's scheduling against a simulated device that keeps tokens in pages and checks what it is told. */
import assert from "node:assert/strict";
import fc from "fast-check";
import type { GenerateSizes } from "../../engine/request.ts";
import { Rollout } from "../../engine/rollout.ts";
import type { Runnable } from "../../engine/slots.ts";
import { PAGE, SAMPLER } from "../../ir/op.ts";

/** Next token: a function of the whole context and of the sample's counters, as a model's would be. */
function nextToken(context: readonly number[], index: number, sample: number): number {
  let h = 17 + 31 * index + 101 * sample;
  for (const t of context) h = (Math.imul(h, 1000003) ^ t) >>> 0;
  return h % 97;
}

const STOP = 7;
/** Tokens that sampling kept beside the one that it drew. */
const KEPT = 2, keptBeside = (token: number) => [token, token + 100];

/** Pages hold the token of every position; a decode reads its context back through its page table, as attention would. */
function simulate(sizes: GenerateSizes) {
  const pages = Array.from({ length: sizes.pages }, () => new Int32Array(PAGE).fill(-1));
  const memory = new Map<string, Int32Array | Float32Array>();
  const ints = (name: string) => memory.get(name) as Int32Array;
  memory.set("state/token", new Int32Array(sizes.slots));
  memory.set("state/outTokens", new Int32Array(sizes.slots * sizes.maxNew));
  memory.set("state/outLogprobs", new Float32Array(sizes.slots * sizes.maxNew));
  memory.set("state/outKept", new Int32Array(sizes.slots * sizes.maxNew * KEPT));
  const counts = { prefills: 0, decodes: 0, copies: 0 };
  let queue: Promise<void> = Promise.resolve(), state = 1;
  const random = () => (state = Math.imul(state, 1664525) + 1013904223 >>> 0) >>> 16;
  const page = (slot: number, position: number) =>
    pages[ints("state/pageTable")[slot * sizes.maxPages + (position >> 4)]!]!;
  const sample = (slot: number, context: readonly number[]) => {
    const row = slot * 8, sampler = ints("state/sampler"), count = ints("state/count");
    const token = nextToken(context, sampler[row + SAMPLER.index]!, sampler[row + SAMPLER.sample]!);
    ints("state/outTokens")[slot * sizes.maxNew + count[slot]!] = token;
    (memory.get("state/outLogprobs") as Float32Array)[slot * sizes.maxNew + count[slot]!] = -token;
    ints("state/outKept").set(keptBeside(token), (slot * sizes.maxNew + count[slot]!) * KEPT);
    ints("state/token")[slot] = token;
    ints("state/position")[slot]!++;
    count[slot]!++;
    if (token === STOP) ints("state/finished")[slot] = 1;
    else if (count[slot] === sampler[row + SAMPLER.limit]) ints("state/finished")[slot] = 2;
  };
  const runnable = (run: (live: Record<string, number>) => void): Runnable => ({
    write: (name, data) => void memory.set(name, data.slice()),
    offer: (name, data) => void memory.set(name, data.slice()),
    readInts: (name, count, from = 0) => ints(name).slice(from, from + count),
    readFloats: (name, count, from = 0) => (memory.get(name) as Float32Array).slice(from, from + count),
    // Like a device: one program after the other, later than the host, which meanwhile goes on reading and writing.
    run: (live) =>
      queue = queue.then(async () => {
        for (let i = random() % 12; i > 0; i--) await null;
        run(live as Record<string, number>);
      }),
  });
  const prefill = runnable(({ tokens, sequences, actions }) => {
    counts.prefills++;
    assert.ok(tokens! <= sizes.prefillTokens && actions! <= sizes.slots && sequences! <= sizes.slots);
    const ids = ints("inputs/ids"), positions = ints("inputs/positions"), slots = ints("inputs/tokenSlots");
    for (let t = 0; t < tokens!; t++) page(slots[t]!, positions[t]!)[positions[t]! % PAGE] = ids[t]!;
    for (let a = 0; a < actions!; a++) {
      const row = ints("inputs/rows")[a]!,
        start = [0, ...ints("inputs/ends")].filter((e) => e <= row).at(-1)!;
      sample(ints("inputs/slots")[a]!, [...ids.subarray(start, row + 1)]);
    }
  });
  const decode = runnable(({ tokens }) => {
    counts.decodes++;
    const slots = [...ints("inputs/slots").subarray(0, tokens!)];
    for (const slot of slots) {
      if (ints("state/finished")[slot]) continue;
      const position = ints("state/position")[slot]!;
      page(slot, position)[position % PAGE] = ints("state/token")[slot]!;
    }
    for (const slot of slots) {
      if (ints("state/finished")[slot]) continue;
      const position = ints("state/position")[slot]!;
      sample(slot, Array.from({ length: position + 1 }, (_, i) => page(slot, i)[i % PAGE]!));
    }
  });
  const copy = runnable(({ sequences }) => {
    counts.copies += sequences!;
    for (let i = 0; i < sequences!; i++) pages[ints("inputs/to")[i]!]!.set(pages[ints("inputs/from")[i]!]!);
  });
  return { prefill, decode, copy, counts };
}

/** What every rollout must give, one sequence at a time and without pages. */
function expected(prompt: Int32Array, index: number, sample: number, limit: number): number[] {
  const context = [...prompt], made: number[] = [];
  while (made.length < limit) {
    const token = nextToken(context, index, sample);
    made.push(token);
    context.push(token);
    if (token === STOP) break;
  }
  return made;
}

async function rollout(
  lengths: readonly number[],
  samples: number,
  maxNew: number,
  sizes: Partial<GenerateSizes>,
) {
  const prompts = lengths.map((n, p) => Int32Array.from({ length: n }, (_, i) => (p * 31 + i * 7) % 89));
  const maxPages = Math.floor((Math.max(...lengths) + maxNew) / PAGE) + 1;
  const full = {
    slots: 8,
    pages: 8 * maxPages,
    maxPages,
    maxNew,
    prefillTokens: 64 + Math.max(...lengths) + maxNew,
    round: 4,
    ...sizes,
  };
  const device = simulate(full);
  const responses = await new Rollout(device.prefill, device.decode, device.copy, full, {
    prompts,
    indices: prompts.map((_, i) => i),
    samples,
    maxNewTokens: maxNew,
    kept: KEPT,
    stops: [STOP],
    key: [1, 2],
    maxPositions: 10_000,
  }).run();
  for (const [p, prompt] of prompts.entries()) {
    for (let s = 0; s < samples; s++) {
      const r = responses[p * samples + s]!, want = expected(prompt, p, s, maxNew);
      assert.deepEqual([...r.tokens], want, `prompt ${p} sample ${s}`);
      assert.deepEqual([...r.logprobs], want.map((t) => -t));
      assert.deepEqual([...r.kept!], want.flatMap(keptBeside));
      assert.equal(r.finished, want.at(-1) === STOP);
    }
  }
  return device.counts;
}

Deno.test("rollout() gives every sequence its own tokens when slots and pages are plenty", async () => {
  const counts = await rollout([3, 16, 17, 40], 2, 60, {});
  assert.equal(counts.prefills, 1);
});

Deno.test("rollout() copies the partial page once per further sample", async () => {
  assert.equal((await rollout([20], 4, 10, {})).copies, 3);
  assert.equal((await rollout([32], 4, 10, {})).copies, 0);
});

Deno.test("rollout() preempts and still gives the same tokens when pages run out", async () => {
  const counts = await rollout([5, 30, 12, 44, 9], 3, 100, { slots: 6, pages: 16 });
  assert.ok(counts.prefills > 3);
});

Deno.test("rollout() gives the same tokens for any slots, pages and prefill budget", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 8 }),
      fc.integer({ min: 1, max: 4 }),
      fc.integer({ min: 1, max: 70 }),
      fc.integer({ min: 1, max: 9 }),
      fc.integer({ min: 0, max: 20 }),
      async (lengths, samples, maxNew, slots, spare) => {
        const maxPages = Math.floor((Math.max(...lengths) + maxNew) / PAGE) + 1;
        await rollout(lengths, samples, maxNew, { slots, pages: maxPages + spare });
      },
    ),
    { numRuns: 200, seed: 5 },
  );
});

Deno.test("rollout() says so when a prompt fits neither the prefill nor the pages", async () => {
  await assert.rejects(
    rollout([40], 1, 8, { pages: 2 }),
    /a context of 40 tokens does not fit .* 2 pages of 16/,
  );
  await assert.rejects(rollout([40], 1, 8, { prefillTokens: 39 }), /a prefill of 39 tokens/);
});
