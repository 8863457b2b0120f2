/** Devices that share processors: more of them than there are processors for take as much longer. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { planGraph } from "../../planner/plan_graph.ts";
import { predict } from "../../planner/predict.ts";
import { loadOf, sharing, simulateShared } from "../../planner/sharing.ts";
import { simulate } from "../../planner/simulate.ts";
import type { Profile } from "../../planner/profile.ts";
import { search } from "../../planner/search.ts";
import type { Instruction } from "../../ir/plan.ts";
import { grpoGraph, inputOf, ppoGraph, profile } from "./planner_fixtures.ts";

/** Instructions of a step with waits as a schedule has them, seconds and loads. */
const schedules = fc.integer({ min: 1, max: 6 }).chain((n) =>
  fc.record({
    step: fc.tuple(...Array.from({ length: n }, (_, i) =>
      fc.record({
        after: fc.subarray(Array.from({ length: i }, (_, j) => j)),
        afterPrevious: fc.subarray(Array.from({ length: n }, (_, j) => j)).map((
          all,
        ) => [...new Set([...all, i])]),
      }))),
    early: fc.subarray([0, 1].filter((i) => i < n)),
    seconds: fc.array(fc.integer({ min: 0, max: 9 }), { minLength: n, maxLength: n }),
    loads: fc.array(fc.integer({ min: 1, max: 4 }), { minLength: n, maxLength: n }),
  })
).map(({ step, early, ...rest }) => ({
  ...rest,
  step: step.map((waits): Instruction => ({ op: "free", replica: "a", devices: [], ...waits })),
  // As `ir/early.ts`: what is early waits for nothing that is not.
  early: new Set(early.filter((i) => step[i]!.after.every((j) => early.includes(j)))),
}));

Deno.test("with processors for all, sharing changes nothing", () => {
  fc.assert(fc.property(schedules, ({ step, early, seconds, loads }) => {
    const alone = simulate({ step }, early, seconds);
    const shared = simulateShared({ step }, early, seconds, loads, Infinity);
    assert.ok(Math.abs(alone.period - shared.period) < 1e-9);
    alone.spans.forEach(({ begin, end }, i) => {
      assert.ok(
        Math.abs(begin - shared.spans[i]!.begin) < 1e-9 && Math.abs(end - shared.spans[i]!.end) < 1e-9,
      );
    });
  }));
});

Deno.test("with fewer, no step is faster than alone, nor than all of its work over the processors, and one busy call is as much slower", () => {
  fc.assert(
    fc.property(schedules, fc.integer({ min: 1, max: 4 }), ({ step, early, seconds, loads }, capacity) => {
      const { period } = simulateShared({ step }, early, seconds, loads, capacity);
      assert.ok(period >= simulate({ step }, early, seconds).period - 1e-9);
      const work = seconds.reduce((n, s, i) => n + s * loads[i]!, 0);
      // What is early may make one step longer and the next one shorter.
      if (!early.size) assert.ok(period >= work / capacity - 1e-9);
      const alone = [{ ...step[0]!, after: [], afterPrevious: [0] }];
      const one = simulateShared({ step: alone }, new Set(), seconds.slice(0, 1), [4], capacity);
      assert.ok(Math.abs(one.period - seconds[0]! * Math.max(1, 4 / capacity)) < 1e-9);
    }),
  );
});

Deno.test("a call on more devices than there are processors for takes its work over the processors", () => {
  const cost = { seconds: 1, bubble: 0, work: 8, host: 0.4, stages: [] };
  assert.deepEqual([undefined, 16, 2].map((c) => sharing(cost, c).seconds), [1, 1, 4.2]);
  assert.equal(sharing({ ...cost, host: 3 }, 16).seconds, 3, "the host does one after the other");
  assert.ok(Math.abs(loadOf(sharing(cost, 2)) - 2) < 1e-12);
});

Deno.test("sixteen devices on two processors are promised no more than two, and a search finds as much", () => {
  const cpu = profile("cpu"), shared = { ...cpu, capacity: 2 }, graph = ppoGraph({ batch: 64, maxNew: 16 });
  const seconds = (count: number, used: Profile = shared) => {
    const input = inputOf(graph, { profile: used, layers: 2, devicesPerNode: count, memoryGiB: 64 });
    const plan = planGraph({ ...input, sizes: input.workload.sizes, strategy: { dp: count, tp: 1, pp: 1 } });
    return predict(input, plan).evaluation.period;
  };
  assert.ok(seconds(16, cpu) < seconds(2, cpu) / 3);
  assert.ok(seconds(16) > 0.9 * seconds(2));
  assert.ok(Math.abs(seconds(2) / seconds(2, cpu) - 1) < 0.01);
});

Deno.test("the bound stays below every plan where devices share processors", () => {
  for (
    const [graph, capacity] of [[grpoGraph({ maxLag: 1 }), 1], [ppoGraph(), 1], [ppoGraph(), 1.5]] as const
  ) {
    const input = inputOf(graph, { profile: { ...profile("cpu"), capacity }, layers: 2, memoryGiB: 256 });
    const { best, bound } = search(input, { exhaustive: 1e6, microBatches: 1 });
    assert.ok(bound.seconds <= best!.evaluation.period * (1 + 1e-9));
  }
});
