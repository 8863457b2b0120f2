import assert from "node:assert/strict";
import { assertSameBits, floats, generator, integers, ints, normal, panels, run } from "./harness.ts";

type Ints = Int32Array<ArrayBuffer>;
const MAX_NEW = 6;

interface State {
  readonly token: Ints;
  readonly position: Ints;
  readonly finished: Ints;
  readonly count: Ints;
  readonly sampler: Ints;
  readonly stops: Ints;
  readonly outTokens: Ints;
  readonly outLogprobs: Float32Array<ArrayBuffer>;
}
interface Sampling {
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
}
const fresh = (slots: number): State => ({
  token: new Int32Array(slots).fill(-1),
  position: Int32Array.from({ length: slots }, (_, i) => 10 + i),
  finished: new Int32Array(slots),
  count: new Int32Array(slots),
  sampler: Int32Array.from(
    { length: slots * 8 },
    (_, i) => [123, -456, Math.floor(i / 8), 2, MAX_NEW][i % 8] ?? 0,
  ),
  stops: new Int32Array(0),
  outTokens: new Int32Array(slots * MAX_NEW),
  outLogprobs: new Float32Array(slots * MAX_NEW),
});

async function sample(logits: Float32Array<ArrayBuffer>, slots: Ints, s: State, o: Sampling): Promise<State> {
  const v = logits.length / slots.length, outs = [2, 3, 4, 5, 8, 9].map((inPlace) => ({ inPlace }));
  // `sample` lists its state as inputs only; the harness must know which of them it updates.
  const ins = [
    logits,
    slots,
    s.token,
    s.position,
    s.finished,
    s.count,
    s.sampler,
    s.stops,
    s.outTokens,
    s.outLogprobs,
  ];
  const after = await run(
    "sample",
    ins,
    [],
    [slots.length, v, o.temperature, o.topK, o.topP, s.stops.length, MAX_NEW],
    2,
    outs,
  );
  const [token, position, finished, count, outTokens] = after.map((x) => integers(x).slice());
  return {
    ...s,
    token: token!,
    position: position!,
    finished: finished!,
    count: count!,
    outTokens: outTokens!,
    outLogprobs: after[5]!,
  };
}

/** Philox4x32-10 by its definition, in big integers: first word of the block. */
function philox(key: readonly number[], counter: readonly number[]): number {
  const W = 0xffffffffn;
  let [a, b, c, d] = counter.map((x) => BigInt(x >>> 0)) as [bigint, bigint, bigint, bigint];
  let [k, l] = key.map((x) => BigInt(x >>> 0)) as [bigint, bigint];
  for (let round = 0; round < 10; round++) {
    const p = 0xd2511f53n * a, q = 0xcd9e8d57n * c;
    [a, b, c, d] = [(q >> 32n) ^ b ^ k, q & W, (p >> 32n) ^ d ^ l, p & W];
    k = (k + 0x9e3779b9n) & W, l = (l + 0xbb67ae85n) & W;
  }
  return Number(a);
}

/** The token and the kept set, written the slow way: sort, cut, add up. */
function expected(row: Float32Array, s: State, slot: number, o: Sampling) {
  const f = Math.fround,
    invT = o.temperature ? f(1 / o.temperature) : 1,
    scores = [...row].map((x) => f(x * invT));
  const top = Math.max(...scores),
    mass = scores.map((x) => Math.exp(x - top)),
    all = mass.reduce((a, b) => a + b, 0);
  let order = [...row.keys()].sort((a, b) => scores[b]! - scores[a]! || a - b);
  if (o.topK) order = order.slice(0, o.topK);
  if (o.topP < 1) {
    const z = order.reduce((t, j) => t + mass[j]!, 0);
    let sum = 0;
    const last = order.findIndex((j) => (sum += mass[j]!) >= o.topP * z);
    if (last >= 0) order = order.slice(0, last + 1);
  }
  const kept = new Set(order), key = s.sampler.subarray(slot * 8);
  const u = (philox([key[0]!, key[1]!], [key[2]!, key[3]!, s.count[slot]!, 0]) + .5) / 2 ** 32;
  const target = u * order.reduce((t, j) => t + mass[j]!, 0);
  let token = order[0]!, sum = 0;
  if (o.temperature) {
    for (let j = 0; j < row.length && sum <= target; j++) if (kept.has(j)) token = j, sum += mass[j]!;
  }
  return { token, logprob: scores[token]! - top - Math.log(all), kept };
}

const SAMPLINGS: readonly Sampling[] = [
  { temperature: 1, topK: 0, topP: 1 },
  { temperature: .7, topK: 0, topP: 1 },
  { temperature: 0, topK: 0, topP: 1 },
  { temperature: 1.3, topK: 1, topP: 1 },
  { temperature: 1, topK: 5, topP: 1 },
  { temperature: 1, topK: 0, topP: .5 },
  { temperature: 2, topK: 40, topP: .9 },
  { temperature: 1, topK: 0, topP: 1e-9 },
  { temperature: 1, topK: 100000, topP: .999 },
];

Deno.test("the uniform numbers are those of Philox4x32-10", () => {
  // Known answers published with the generator (Random123).
  assert.equal(philox([0, 0], [0, 0, 0, 0]), 0x6627e8d5);
  assert.equal(philox([-1, -1], [-1, -1, -1, -1]), 0x408f276d);
});

Deno.test("sample() draws what sorting, cutting and adding up draws, for every kind of sampling", async () => {
  const next = generator(1);
  for (const v of [1, 2, 17, 1000, 1024, 3000]) {
    for (const o of SAMPLINGS) {
      const rows = 7, slots = ints(3, 0, 6, 5, 1, 2, 4);
      const logits = normal(rows * v, next, 3);
      if (v === 17) logits.forEach((x, i) => logits[i] = Math.round(x)); // ties
      let state = fresh(rows);
      for (let step = 0; step < 3; step++) {
        const before = state;
        state = await sample(logits, slots, state, o);
        for (let i = 0; i < rows; i++) {
          const slot = slots[i]!,
            { token, logprob } = expected(logits.subarray(i * v, i * v + v), before, slot, o);
          const at = slot * MAX_NEW + step;
          assert.equal(state.token[slot], token, `token of ${JSON.stringify(o)}, ${v} ids, step ${step}`);
          assert.equal(state.outTokens[at], token);
          assert.ok(Math.abs(state.outLogprobs[at]! - logprob) < 2e-5, `${state.outLogprobs[at]} ${logprob}`);
          assert.equal(state.position[slot], 10 + slot + step + 1);
          assert.equal(state.count[slot], step + 1);
          assert.equal(state.finished[slot], 0);
        }
      }
    }
  }
});

Deno.test("sample() stops at stop tokens and at the limit, and skips what has finished", async () => {
  const v = 20, logits = new Float32Array(3 * v), slots = ints(0, 1, 2), o = SAMPLINGS[2]!;
  logits[7] = logits[v + 8] = logits[2 * v + 9] = 5;
  let state: State = { ...fresh(3), stops: ints(3, 8) };
  state.sampler[2 * 8 + 4] = 2;
  state = await sample(logits, slots, state, o);
  assert.deepEqual([...state.finished], [0, 1, 0]);
  state = await sample(logits, slots, state, o);
  assert.deepEqual([...state.finished], [0, 1, 2]);
  assert.deepEqual([...state.count], [2, 1, 2]);
  assert.deepEqual([...state.token], [7, 8, 9]);
  logits.fill(NaN, v); // rows of finished slots are not looked at
  state = await sample(logits, slots, state, o);
  assert.deepEqual([...state.count], [3, 1, 2]);
  logits[0] = NaN;
  await assert.rejects(sample(logits, slots, state, o), /the logits of slot 0 are not finite/);
  state.count[0] = MAX_NEW;
  await assert.rejects(sample(logits, slots, state, o), /slot 0 has 6 tokens and room for 6/);
  await assert.rejects(sample(logits, ints(0, 1, 3), state, o), /slot 2 is 3 and there are 3/);
});

Deno.test("sample() stores the bits of linearLogprob()", async () => {
  const next = generator(2), rows = 5, h = 24;
  for (const v of [40, 1024, 2500]) {
    for (const temperature of [1, .7, 0]) {
      const x = normal(rows * h, next), w = panels(normal(v * h, next), v, h), slots = ints(0, 1, 2, 3, 4);
      const [logits] = await run("matmul", [x, w], [rows * v], [rows, v, h]);
      const state = await sample(logits!, slots, fresh(rows), { temperature, topK: 0, topP: 1 });
      const [logprob] = await run(
        "linearLogprob",
        [x, w, state.token, floats(temperature ? 1 / temperature : 1)],
        [rows, rows],
        [rows, h, v, 0, 0],
      );
      assertSameBits(
        Float32Array.from(slots, (s) => state.outLogprobs[s * MAX_NEW]!),
        logprob!,
        `${v} ids at ${temperature}`,
      );
    }
  }
});

Deno.test("sampleKept() draws what sample() draws, and stores what was kept and the bits of keptLogprob()", async () => {
  const next = generator(6), rows = 5, h = 24, slots = ints(4, 0, 1, 3, 2);
  for (const v of [17, 40, 1024, 2500]) {
    for (const o of SAMPLINGS.filter(({ topK }) => topK > 0 && topK <= 1024)) {
      const x = normal(rows * h, next), w = panels(normal(v * h, next), v, h);
      const [logits] = await run("matmul", [x, w], [rows * v], [rows, v, h]);
      const before = fresh(rows), plain = await sample(logits!, slots, before, o), width = o.topK;
      const ins = [
        before.token,
        before.position,
        before.finished,
        before.count,
        before.sampler,
        before.stops,
      ];
      const after = await run(
        "sampleKept",
        [
          logits!,
          slots,
          ...ins,
          before.outTokens,
          before.outLogprobs,
          new Int32Array(rows * MAX_NEW * width),
        ],
        [],
        [rows, v, o.temperature, o.topK, o.topP, 0, MAX_NEW],
        2,
        [2, 3, 4, 5, 8, 9, 10].map((inPlace) => ({ inPlace })),
      );
      assert.deepEqual(integers(after[0]!), plain.token);
      const stored = integers(after[6]!), kept = new Int32Array(rows * width);
      for (let i = 0; i < rows; i++) {
        const from = slots[i]! * MAX_NEW * width,
          { kept: set } = expected(
            logits!.subarray(i * v, i * v + v),
            before,
            slots[i]!,
            o,
          );
        kept.set(stored.subarray(from, from + width), i * width);
        const listed = [...set].sort((a, b) => a - b);
        assert.deepEqual([...stored.subarray(from, from + width)].slice(0, listed.length), listed);
        assert.ok(stored.subarray(from + listed.length, from + width).every((id) => id === -1));
      }
      const invT = floats(1 / o.temperature);
      const [z] = await run("keptLogits", [x, w, kept], [rows * width], [rows, h, v, width, 0, v]);
      const targets = Int32Array.from(slots, (slot) => plain.token[slot]!);
      const [logprob] = await run("keptLogprob", [z!, kept, targets, invT], [rows, rows], [rows, width, 0]);
      assertSameBits(Float32Array.from(slots, (s) => after[5]![s * MAX_NEW]!), logprob!, `${v} ids`);
    }
  }
});

Deno.test("sample() draws tokens as often as the distribution says", async () => {
  const p = [.5, .25, .125, .125], rows = 4000, v = p.length;
  const logits = Float32Array.from({ length: rows * v }, (_, i) => Math.log(p[i % v]!));
  const slots = Int32Array.from({ length: rows }, (_, i) => i), seen = [0, 0, 0, 0];
  const state = await sample(logits, slots, fresh(rows), SAMPLINGS[0]!);
  for (const t of state.token) seen[t]!++;
  // Four standard deviations of a binomial count.
  p.forEach((x, i) =>
    assert.ok(Math.abs(seen[i]! - x * rows) < 4 * Math.sqrt(rows * x * (1 - x)), `${seen}`)
  );
});
