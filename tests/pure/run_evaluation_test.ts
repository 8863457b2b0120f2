import assert from "node:assert/strict";
import { compareFigures } from "../../run/comparison.ts";
import { type EvaluationRecord, heldOutRows } from "../../run/evaluation.ts";
import { withEvaluations } from "../../run/report.ts";

const rows = (n: number) => Array.from({ length: n }, (_, index) => ({ index, fields: {} }));

Deno.test("heldOutRows() gives what is asked for or says how many there are", () => {
  const data = { path: "d.jsonl", training: rows(9), heldOut: rows(3) };
  assert.equal(heldOutRows(data, 2).length, 2);
  assert.throws(
    () => heldOutRows(data, 4),
    /^RangeError: Cannot evaluate on 4 rows of d\.jsonl: 3 are held out, lower evaluate\.prompts or raise heldOut$/,
  );
  assert.throws(
    () => heldOutRows({ ...data, heldOut: [] }, 10),
    /^RangeError: Cannot evaluate on 10 rows of d\.jsonl: 9 are there, lower evaluate\.prompts$/,
  );
});

const record = (step: number, when: EvaluationRecord["when"], mean: number): EvaluationRecord => ({
  step,
  when,
  sequences: 4,
  rows: 2,
  fields: { quality: { mean, error: 0.3 }, length: { mean: 5, error: 0.4 } },
  reward: "quality",
  distinct2: 0.9,
  reference: { klK1: 0.1, klK3: 0.2, loss: 1.5 },
  samples: [],
});

Deno.test("compareFigures() says where a comparison starts, and a change in standard errors", () => {
  const after = record(6, "after", 3);
  const { columns, rows } = compareFigures(record(0, "before", 1), after);
  assert.deepEqual(columns.map((c) => c.title), ["4 held-out sequences", "before", "after", "change"]);
  // 2 over √(0.3² + 0.3²).
  assert.deepEqual(rows[0], ["quality", "1 ± 0.3", "3 ± 0.3", "+4.7 σ"]);
  assert.equal(compareFigures(record(4, "resumed", 1), after).columns[1]!.title, "after step 4");
});

Deno.test("withEvaluations() puts held-out figures beside the metrics of their step", () => {
  const merged = withEvaluations([{ step: 1, reward: 7 }, { step: 2, reward: 8 }], [
    record(0, "before", 1),
    record(2, "after", 3),
  ]);
  assert.deepEqual(
    merged.map((r) => [r.step, r.reward, r["evaluation/reward"], r["evaluation/rewardError"]]),
    [
      [0, undefined, 1, 0.3],
      [1, 7, undefined, undefined],
      [2, 8, 3, 0.3],
    ],
  );
  assert.equal(merged[0]!["evaluation/length"], 5);
  assert.equal(merged[0]!["evaluation/klK3"], 0.2);
});
