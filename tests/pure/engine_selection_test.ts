/** What narrows and refills a step's batch, and turns with tools between them. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { type Batch, batchOf } from "../../engine/batch.ts";
import { converse, type HostTool } from "../../engine/conversation.ts";
import { Rounds, spareRows } from "../../engine/refill.ts";
import type { GenerateRequest, Response } from "../../engine/request.ts";
import type { Sample } from "../../engine/sample.ts";
import { select, selected } from "../../engine/select.ts";
import type { CallGraph, RefillCall } from "../../ir/graph.ts";

const row = (index: number): Sample => ({
  index,
  prompt: { ids: Int32Array.of(index), text: `p${index}` },
  fields: { answer: `a${index}` },
});
const rows = (n: number, from = 0) => Array.from({ length: n }, (_, i) => row(from + i));

/** Writes fields of every granularity whose values tell row and sample. */
function fill(batch: Batch): Batch {
  const each = <T>(f: (row: number, sample: number) => T) =>
    Array.from({ length: batch.sequences }, (_, s) => f(batch.rowOf(s).index, s % batch.group));
  batch.tokens.set("tokens", {
    ids: each((r, s) => Int32Array.of(r, s, 9)),
    actions: each(() => Int32Array.of(2)),
    temperature: 1,
    versions: each(() => 3),
    model: "actor",
  });
  batch.numbers.set("logprobs", {
    per: "token",
    of: "tokens",
    values: each((r, s) => Float32Array.of(r + s / 8)),
  });
  batch.numbers.set("rewards", { per: "sequence", values: Float32Array.from(each((r, s) => r + s / 8)) });
  batch.texts.set("response", each((r, s) => `${r}/${s}`));
  return batch;
}
/** Every column says the same about a sequence. */
function consistent(batch: Batch): void {
  for (let s = 0; s < batch.sequences; s++) {
    const { index } = batch.rowOf(s), ids = batch.tokensOf("tokens").ids[s]!, sample = ids[1]!;
    assert.equal(ids[0], index);
    assert.equal(batch.texts.get("prompt")![s], `p${index}`);
    assert.equal(batch.texts.get("answer")![s], `a${index}`);
    assert.equal(batch.texts.get("response")![s], `${index}/${sample}`);
    assert.equal(batch.flat("rewards", [s])[0], index + sample / 8);
    assert.equal(batch.flat("logprobs", [s])[0], index + sample / 8);
  }
}

Deno.test("selected() keeps the largest of each group in their order, or the largest and the smallest", () => {
  const values = [1, 5, 3, 5, 2, 2, 2, 2];
  assert.deepEqual(selected(2, values, 4), [1, 3, 4, 5]);
  assert.deepEqual(selected(1, values, 4), [1, 4]);
  assert.deepEqual(selected("bestAndWorst", values, 4), [1, 0, 4, 7]);
  fc.assert(fc.property(
    fc.array(fc.integer({ min: 0, max: 5 }), { minLength: 12, maxLength: 12 }),
    fc.integer({ min: 1, max: 4 }),
    (values, keep) => {
      const kept = selected(keep, values, 4);
      assert.deepEqual([...kept].sort((a, b) => a - b), kept);
      for (let g = 0; g < 3; g++) {
        const mine = kept.filter((s) => Math.floor(s / 4) === g), group = [0, 1, 2, 3].map((i) => 4 * g + i);
        const least = Math.min(...mine.map((s) => values[s]!));
        assert.equal(mine.length, keep);
        assert.ok(group.filter((s) => !mine.includes(s)).every((s) => values[s]! <= least));
      }
    },
  ));
});

Deno.test("select() narrows every field and says what it kept", () => {
  const batch = fill(batchOf(rows(3), 4));
  const said = select({ kind: "select", id: "select", reads: { by: "rewards" }, writes: {}, keep: 2 }, batch);
  assert.deepEqual([batch.sequences, batch.group, batch.rows.length], [6, 2, 3]);
  assert.deepEqual(batch.tokensOf("tokens").ids.map((ids) => ids[1]), [2, 3, 2, 3, 2, 3]);
  assert.equal(said.kept, 1 + 2.5 / 8);
  consistent(batch);
});

const graph = {
  source: { fields: {} },
  calls: [{ id: "a" }, { id: "refill" }, { id: "b" }],
} as unknown as CallGraph;
const refill = graph.calls[1] as RefillCall;

Deno.test("Rounds replace the groups that do not pass by others, in place, until all do", () => {
  const batch = fill(batchOf(rows(4), 2)), call = { ...refill, reads: { until: "pass" }, maxRounds: 4 };
  const all = { ...graph, calls: [graph.calls[0]!, call, graph.calls[2]!] };
  const drawn: (readonly number[])[] = [];
  const rounds = new Rounds(all, call, batch, (count, round) => {
    drawn.push([count, round]);
    return rows(count, 10 * round);
  });
  /** Rows with an odd number pass; one sample that fails fails its group. */
  const judge = () => {
    const { batch } = rounds.of("a")!;
    fill(batch);
    const pass = Float32Array.from(
      { length: batch.sequences },
      (_, s) => Number(batch.rowOf(s).index % 2 === 1 || s % 2 === 1),
    );
    batch.numbers.set("pass", { per: "sequence", values: pass });
    rounds.end();
  };
  assert.deepEqual(rounds.of("a")!.places, [0, 1, 2, 3]);
  judge();
  assert.deepEqual([rounds.of("a")!.places, rounds.of("a")!.round], [[0, 2], 2]);
  judge();
  assert.deepEqual(batch.rows.map((r) => r.index), [20, 1, 21, 3]);
  assert.deepEqual(rounds.of("a")!.places, [0]);
  consistent(batch);
  judge();
  judge();
  assert.deepEqual(drawn, [[2, 2], [1, 3], [1, 4]]);
  assert.deepEqual(rounds.metrics, { rounds: 4, failed: 0.25 });
  assert.equal(rounds.of("b")!.batch, batch, "what comes later sees the whole step");
  consistent(batch);
});

Deno.test("Rounds end early: repeated calls have nothing to do any more", () => {
  const batch = fill(batchOf(rows(2), 2)), call = { ...refill, reads: { until: "rewards" }, maxRounds: 3 };
  batch.numbers.set("rewards", { per: "sequence", values: Float32Array.of(1, 1, 2, 2) });
  const all = { ...graph, calls: [graph.calls[0]!, call] };
  const rounds = new Rounds(all, call, batch, () => assert.fail("no rows are needed"));
  rounds.end();
  assert.equal(rounds.of("a"), null);
  rounds.end();
  assert.deepEqual(rounds.metrics, { rounds: 1, failed: 0 });
});

Deno.test("spareRows() draws without repeating while it can, the same for the same step and round", () => {
  const draw = (count: number, round: number) =>
    spareRows(rows(10), count, { seed: 1, step: 2, round }).map((r) => r.index);
  assert.deepEqual(draw(10, 2), draw(10, 2));
  assert.notDeepEqual(draw(10, 2), draw(10, 3));
  assert.equal(new Set(draw(10, 2)).size, 10);
  assert.equal(draw(25, 2).length, 25);
});

/** Letters are tokens; 46, a full stop, ends a turn. */
const letters = (text: string) => Int32Array.from(text, (c) => c.charCodeAt(0));
const said = (ids: Int32Array) => String.fromCharCode(...ids);
const adder: HostTool = {
  name: "adder",
  call: /(\d)\+(\d)=\.$/,
  run: ([, a, b]) => `${Number(a) + Number(b)}!`,
};

/** A model that looks its turns up by what it has read. */
async function talk(turns: Readonly<Record<string, string>>, o: Partial<GenerateRequest> = {}, maxTurns = 3) {
  const requests: GenerateRequest[] = [];
  const generate = (request: GenerateRequest): Promise<Response[]> => {
    requests.push(request);
    return Promise.resolve(
      request.prompts.flatMap((ids, prompt) =>
        Array.from({ length: request.samples }, (_, sample) => {
          const text = turns[said(ids)] ?? turns[`${said(ids)}#${sample}`] ?? assert.fail(said(ids));
          const limit = request.limits?.[prompt] ?? request.maxNewTokens;
          const tokens = letters(text.slice(0, limit));
          return {
            prompt,
            tokens,
            logprobs: Float32Array.from(tokens, (_, i) => -requests.length - i / 100),
            finished: tokens.at(-1) === 46,
          };
        })
      ),
    );
  };
  const responses = await converse(generate, {
    prompts: [letters("Q")],
    indices: [5],
    samples: 1,
    maxNewTokens: 40,
    stops: [46],
    key: [1, 1],
    maxPositions: 100,
    ...o,
  }, {
    call: "actor.generate",
    tools: [adder],
    seconds: 0.05,
    maxTurns,
    decode: said,
    encode: letters,
    keyOf: (turn) => [turn, turn],
  });
  return { requests, responses };
}

Deno.test("converse() inserts a tool's answer, whose tokens are no actions, and goes on from the same tokens", async () => {
  const { requests, responses } = await talk({ "Q#0": "1+2=.", "Q#1": "no.", "Q1+2=.3!": "so 3." }, {
    samples: 2,
  });
  const [asked, other] = responses;
  assert.equal(said(asked!.tokens), "1+2=.3!so 3.");
  assert.deepEqual([...asked!.actions!], [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]);
  assert.equal(asked!.logprobs.length, 10);
  assert.deepEqual([...asked!.logprobs.subarray(4, 6)], [Math.fround(-1.04), -2]);
  assert.equal(asked!.finished, true);
  assert.equal(said(other!.tokens), "no.");
  assert.deepEqual(requests.map((r) => [r.prompts.length, r.samples, [...r.key]]), [[1, 2, [1, 1]], [1, 1, [
    2,
    2,
  ]]]);
  assert.deepEqual(requests[1]!.indices, [10], "a number of its own for each sample");
  assert.deepEqual(requests[1]!.limits, [40 - 7]);
});

Deno.test("converse() ends with the turns, and where no room is left for an answer", async () => {
  const again = { "Q": "1+2=.", "Q1+2=.3!": "3+4=.", "Q1+2=.3!3+4=.7!": "7." };
  assert.equal(said((await talk(again)).responses[0]!.tokens), "1+2=.3!3+4=.7!7.");
  assert.equal(said((await talk(again, {}, 2)).responses[0]!.tokens), "1+2=.3!3+4=.");
  // Five tokens of the turn, two of the answer, one for the model: eight are just enough.
  const [cut] = (await talk(again, { maxNewTokens: 8 })).responses;
  assert.deepEqual([said(cut!.tokens), cut!.finished], ["1+2=.3!3", false]);
  const [none] = (await talk(again, { maxNewTokens: 7 })).responses;
  assert.deepEqual([said(none!.tokens), none!.finished], ["1+2=.", false]);
  const [full] = (await talk(again, { maxPositions: 8 })).responses;
  assert.equal(said(full!.tokens), "1+2=.");
});

Deno.test("converse() says which tool threw or never answered", async () => {
  const run = adder.run;
  Object.assign(adder, { run: () => Promise.reject(new Error("no digits left")) });
  await assert.rejects(
    talk({ "Q": "1+2=." }),
    /Cannot ask tool adder in actor.generate: it threw "no digits left"/,
  );
  Object.assign(adder, { run: () => new Promise(() => {}) });
  await assert.rejects(
    talk({ "Q": "1+2=." }),
    /Cannot ask tool adder in actor.generate: it took longer than 0.05 s/,
  );
  Object.assign(adder, { run });
});
