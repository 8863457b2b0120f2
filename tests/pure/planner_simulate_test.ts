/** Schedules that points share, and the time that steps take once they follow one another. */
import assert from "node:assert/strict";
import fc from "fast-check";
import type { Instruction } from "../../ir/plan.ts";
import { type Candidate, Candidates, placesOf, unitsOf } from "../../planner/candidates.ts";
import { Costs } from "../../planner/cost.ts";
import { Schedules } from "../../planner/schedules.ts";
import { simulate } from "../../planner/simulate.ts";
import { grpoGraph, inputOf, ppoGraph } from "./planner_fixtures.ts";

Deno.test("points of one structure share waits, and those are the waits of their own schedules", () => {
  for (const graph of [ppoGraph(), ppoGraph({ maxLag: 1 }), grpoGraph({ maxLag: 1 })]) {
    const input = inputOf(graph, { nodes: 2, devicesPerNode: 4 }), units = unitsOf(input);
    const lists = units.map((u) => new Candidates(new Costs(input), { microBatches: 1 }).of(u));
    const schedules = new Schedules(input, units);
    const choice = (list: readonly Candidate[]) =>
      fc.tuple(fc.nat(list.length - 1), fc.nat()).map(([i, place]) => {
        const candidate = list[i]!, places = placesOf(candidate.mesh, input.cluster);
        return { candidate, first: places[place % places.length]! };
      });
    const point = fc.record({
      choices: fc.tuple(...lists.map(choice)),
      offloaded: fc.subarray(Object.keys(graph.models)).map((m) => m.sort()),
    });
    fc.assert(
      fc.property(point, (point) => {
        const shared = schedules.of(point), own = schedules.exact(point);
        const waits = (step: readonly Instruction[]) => step.map(({ devices: _, ...rest }) => rest);
        assert.deepEqual(waits(shared.schedule.step), waits(own.schedule.step));
        assert.deepEqual(shared.schedule.replicas, own.schedule.replicas);
        assert.deepEqual(shared.early, own.early);
      }),
      { numRuns: 300 },
    );
  }
});

/** Instructions by what each waits for, in its step and in the one before. */
const stepOf = (...waits: (readonly [after: number[], afterPrevious: number[]])[]): Instruction[] =>
  waits.map(([after, afterPrevious], i) => ({
    op: "run",
    call: `c${i}`,
    replica: null,
    devices: [],
    after,
    afterPrevious,
  }));

Deno.test("a step takes its longest way where nothing is early, and less where generation runs ahead", () => {
  // Generation, then training; a second training that only the step's end waits for.
  const step = stepOf([[], [1]], [[0], [1]], [[0], [2]]), seconds = [5, 3, 4];
  assert.equal(simulate({ step }, new Set(), seconds).period, 9);
  // Ahead, generation waits for the training of its own model only.
  const { period, spans } = simulate({ step }, new Set([0]), seconds);
  assert.equal(period, 8);
  assert.ok(spans[0]!.begin < 0, "generation began in the step before");
  // With weights that are one step older it runs beside everything.
  const lagging = stepOf([[], [0]], [[0], [1]], [[0], [2]]);
  assert.equal(simulate({ step: lagging }, new Set([0]), seconds).period, 5);
});

Deno.test("no period is shorter than what has to happen one after the other, nor longer than everything in turn", () => {
  const times = fc.array(fc.double({ min: 0.1, max: 5, noNaN: true }), { minLength: 4, maxLength: 4 });
  fc.assert(
    fc.property(times, fc.boolean(), (seconds, early) => {
      const step = stepOf([[], [3]], [[0], []], [[0], []], [[1, 2], [3]]);
      const { period } = simulate({ step }, new Set(early ? [0] : []), seconds);
      const [a, b, c, d] = seconds as [number, number, number, number];
      assert.ok(Math.abs(period - (a + Math.max(b, c) + d)) < 1e-9, `${period}`);
    }),
  );
});
