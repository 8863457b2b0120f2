/** From plans to what devices do: replicas, reallocations, waits, the memory that replicas have in turn. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { inFlight, oneForwardOneBackward } from "../../compiler/pipeline.ts";
import { digest } from "../../ir/digest.ts";
import { adamw, ema, gae, models, policyModel, ppoClip, prompts, rewardModel } from "../../dsl/mod.ts";
import { shapedRewards, valueClip, valueModel, workflow } from "../../dsl/mod.ts";
import type { CallGraph } from "../../ir/graph.ts";
import { meshOf, parseRange } from "../../ir/notation.ts";
import type { Assignment, ExecutionPlan, Instruction, Schedule } from "../../ir/plan.ts";
import { printSchedule } from "../../ir/print_schedule.ts";
import { callSpan, gradientTenant, poolOf, replicaTenants, type Tenant } from "../../planner/pool.ts";
import { schedulesOf } from "../../planner/schedule.ts";

const CLUSTER = { nodes: 1, devicesPerNode: 8, memoryBytes: 2 ** 30, links: [] };

function ppo(o: { readonly maxLag?: number; readonly average?: boolean } = {}): CallGraph {
  const { actor, critic, ref, reward } = models({
    actor: policyModel("m", adamw({ lr: 1e-3 })),
    critic: valueModel("m", adamw({ lr: 1e-3 })),
    ref: o.average ? policyModel("m", ema("actor", { eta: 0.1 })) : policyModel("m"),
    reward: rewardModel("m"),
  });
  return workflow({
    name: "ppo",
    data: prompts("p.jsonl", { batch: 8 }),
    flow: actor.generate({ maxNewTokens: 8, maxLag: o.maxLag ?? 0 })
      .then(reward.infer(), ref.infer().as("refLogprobs"), critic.infer())
      .then(shapedRewards({ beta: 0.1 })).then(gae({ gamma: 1, lambda: 0.95 }))
      .then(actor.train(ppoClip({ epsilon: 0.2 })), critic.train(valueClip())),
  }).graph;
}

type Row = readonly [devices: string, dp: number, tp: number, pp: number, offload?: boolean];

function planOf(graph: CallGraph, rows: Readonly<Record<string, Row>>): ExecutionPlan {
  const assignments = Object.fromEntries(
    Object.entries(rows).map(([id, [devices, dp, tp, pp, offload = false]]): [string, Assignment] => {
      const range = parseRange(devices);
      assert.ok(typeof range !== "string");
      const usual = { microBatchTokens: 64, zero: 0, recompute: "nothing" } as const;
      return [id, { mesh: meshOf(range, CLUSTER), strategy: { dp, tp, pp }, offload, ...usual }];
    }),
  );
  return { version: 1, graph: digest(graph), cluster: CLUSTER, assignments };
}

/** The hand plan of the paper's documentation, but for the reference model's stages. */
const HAND: Readonly<Record<string, Row>> = {
  "actor.generate": ["0-7", 4, 1, 2],
  "critic.infer": ["0-1", 2, 1, 1],
  "reward.infer": ["2-3", 1, 1, 2],
  "ref.infer": ["4-7", 1, 1, 4],
  "actor.train": ["0-3", 2, 1, 2],
  "critic.train": ["4-7", 2, 1, 2],
};

async function golden(name: string, actual: string): Promise<void> {
  const file = new URL(`./golden_print/${name}`, import.meta.url);
  if (Deno.env.get("UPDATE_GOLDEN") === "1") await Deno.writeTextFile(file, actual);
  assert.equal(actual, await Deno.readTextFile(file));
}

const scheduleOf = (graph: CallGraph, rows: Readonly<Record<string, Row>>) =>
  schedulesOf([{ graph, plan: planOf(graph, rows) }])[0]!;

Deno.test("the schedules of the hand plan, of lag, of an average and of offload are as in golden_print", async () => {
  const offloaded = Object.fromEntries(
    Object.entries(HAND).map((
      [id, [d, dp, tp, pp]],
    ): [string, Row] => [id, [d, dp, tp, pp, /ref|actor/.test(id)]]),
  );
  await golden("schedule_hand.txt", printSchedule(scheduleOf(ppo(), HAND)));
  await golden(
    "schedule_lag.txt",
    printSchedule(scheduleOf(ppo({ maxLag: 1 }), { ...HAND, "actor.generate": ["4-7", 4, 1, 1] })),
  );
  await golden("schedule_average.txt", printSchedule(scheduleOf(ppo({ average: true }), HAND)));
  await golden("schedule_offload.txt", printSchedule(scheduleOf(ppo(), offloaded)));
});

Deno.test("an evaluation looks at the newest weights, and leaves those of lagging generation alone", () => {
  const graph = ppo({ maxLag: 1 }), rows = { ...HAND, "actor.generate": ["4-7", 4, 1, 1] } as const;
  const held = { ...graph, calls: graph.calls.slice(0, 1) };
  const plans = [{ graph, plan: planOf(graph, rows) }, {
    graph: held,
    plan: planOf(held, { "actor.generate": rows["actor.generate"] }),
  }];
  const [step, evaluation] = schedulesOf(plans) as [Schedule, Schedule];
  const copyOf = (s: Schedule) =>
    s.step.flatMap((a) => a.op === "run" && a.call === "actor.generate" ? [a.replica!] : [])[0]!;
  assert.equal(step.replicas[copyOf(step)]!.lag, 1);
  assert.equal(evaluation.replicas[copyOf(evaluation)]!.lag, 0);
  assert.ok(evaluation.step.every((a) => a.op !== "reallocate" || a.to !== copyOf(step)));
});

Deno.test("an average that only the evaluation looks at follows its model all the same", () => {
  const graph = ppo({ average: true }),
    trained = { ...graph, calls: graph.calls.filter((c) => !("model" in c) || c.model !== "ref") };
  const { ref, ...others } = graph.models, main = { ...trained, models: others };
  const held = {
    ...graph,
    models: { ref: ref! },
    calls: graph.calls.filter((c) => "model" in c && c.model === "ref"),
  };
  const { "ref.infer": place, ...rows } = HAND;
  const [step] = schedulesOf([
    { graph: main, plan: planOf(main, rows) },
    { graph: held, plan: planOf(held, { "ref.infer": place! }) },
  ]);
  assert.ok(step!.step.some((a) => a.op === "reallocate" && a.to === "ref@0" && a.weight === 0.1));
});

Deno.test("on one device nothing is reallocated or freed", () => {
  const one = Object.fromEntries(Object.keys(HAND).map((id): [string, Row] => [id, ["0", 1, 1, 1]]));
  const { step, prologue, replicas } = scheduleOf(ppo(), one);
  assert.deepEqual(step.map((a) => a.op), step.map(() => "run"));
  assert.deepEqual(prologue.map((a) => a.op), ["load", "load", "load", "load"]);
  assert.deepEqual(Object.keys(replicas).sort(), ["actor@0", "critic@0", "ref@0", "reward@0"]);
});

const SIZES = [1, 2, 4, 8];
const row: fc.Arbitrary<Row> = fc.tuple(fc.constantFrom(...SIZES), fc.nat(7), fc.nat(3), fc.boolean()).map(
  ([size, at, cut, offload]) => {
    const first = size * (at % (8 / size)),
      strategies = [[size, 1, 1], [1, size, 1], [1, 1, size], [size / 2, 1, 2]];
    const [dp, tp, pp] = (size > 1 ? strategies[cut]! : [1, 1, 1]) as [number, number, number];
    return [`${first}-${first + size - 1}`, dp, tp, pp, offload];
  },
);
const rowsOf = fc.tuple(row, row, row, row, row, row).map((rows) =>
  Object.fromEntries(Object.keys(HAND).map((id, i) => [id, rows[i]!]))
);

/** Everything that an instruction waits for, in this step and in the one before. */
function ancestors(step: readonly Instruction[], at: number): Set<string> {
  const found = new Set<string>();
  const visit = (i: number, back: number): void => {
    const { after, afterPrevious } = step[i]!;
    for (
      const [j, b] of [...after.map((j) => [j, back]), ...afterPrevious.map((j) => [j, back + 1])] as [
        number,
        number,
      ][]
    ) {
      if (b > 1 || found.has(`${b} ${j}`)) continue;
      found.add(`${b} ${j}`);
      visit(j, b);
    }
  };
  visit(at, 0);
  return found;
}

/** What an instruction needs memory in turn for. */
function neededBy(a: Instruction): readonly (string | null)[] {
  if (a.op === "reallocate") return [a.from, a.to];
  if (a.op === "fetch" || a.op === "offload") {
    return [a.part === "params" ? a.replica : `${a.replica} moments`];
  }
  if (a.op !== "run") return [a.replica];
  if (a.call.endsWith(".train") && a.replica !== null) {
    return [a.replica, `${a.replica} moments`, a.call, ...a.call === "actor.train" ? ["actor@0 grads"] : []];
  }
  return [a.replica, a.call];
}

Deno.test("devices are never shared, weights are as new as they must be, and memory in turn does not overlap", () => {
  fc.assert(
    fc.property(rowsOf, fc.boolean(), fc.nat(1), (rows, average, maxLag) => {
      const graph = ppo({ average, maxLag }),
        schedule = scheduleOf(graph, rows),
        { step, replicas } = schedule;
      for (const [i, a] of step.entries()) {
        const waits = ancestors(step, i),
          shares = (b: Instruction) => a.devices.some((d) => b.devices.includes(d));
        // One after the other on every device, within a step and from step to step.
        for (const [j, b] of step.entries()) {
          if (shares(b) && j < i) assert.ok(waits.has(`0 ${j}`), `${i} does not wait for ${j}`);
          if (shares(b)) assert.ok(waits.has(`1 ${j}`), `${i} does not wait for ${j} of the step before`);
        }
        if (a.op !== "run") continue;
        const call = graph.calls.find((c) => c.id === a.call)!;
        for (const field of Object.values(call.reads)) {
          const writer = step.findIndex((b) =>
            b.op === "run" && Object.values(graph.calls.find((c) => c.id === b.call)!.writes).includes(field)
          );
          if (writer >= 0) assert.ok(waits.has(`0 ${writer}`), `${a.call} does not wait for "${field}"`);
        }
      }
      // Played forward for three steps, every call finds the newest weights, or lags as declared.
      const versions = new Map(
        Object.keys(replicas).map((
          name,
        ) => [name, replicas[name]!.residence === "device" || replicas[name]!.home ? 0 : null]),
      );
      const host = new Set(
        Object.keys(replicas).filter((name) => replicas[name]!.home && replicas[name]!.residence === "pool")
          .flatMap((name) => [name, `${name} moments`]),
      );
      for (let n = 0; n < 3; n++) {
        for (const a of step) {
          if (a.op === "fetch") host.delete(a.part === "params" ? a.replica : `${a.replica} moments`);
          if (a.op === "offload") host.add(a.part === "params" ? a.replica : `${a.replica} moments`);
          if (a.op === "free") versions.set(a.replica, null);
          if (a.op === "reallocate") {
            assert.ok(!host.has(a.from) && !host.has(a.to));
            versions.set(a.to, a.weight === 1 ? versions.get(a.from)! : versions.get(a.to)! + 1);
          }
          if (a.op !== "run" || a.replica === null) continue;
          const { model, lag } = replicas[a.replica]!,
            version = versions.get(a.replica),
            newest = versions.get(`${model}@0`)!;
          assert.ok(!host.has(a.replica), `${a.call} runs on offloaded weights`);
          if (a.call.endsWith(".train")) {
            assert.ok(!host.has(`${a.replica} moments`), `${a.call} updates with offloaded moments`);
          }
          assert.ok(
            typeof version === "number" && newest - version <= lag,
            `${a.call} finds version ${version} of ${newest}`,
          );
          if (graph.calls.find((c) => c.id === a.call)!.kind === "train") versions.set(a.replica, newest + 1);
        }
      }
      // What is alive at the same time on a device lies apart: copies of models, gradients, what calls need.
      const bytes = (name: string, rank: number) => 64 * (1 + name.length + rank);
      const calls = graph.calls.filter((c) => "model" in c), home = replicas["actor@0"]!;
      const tenants = [
        ...replicaTenants([schedule], CLUSTER, (name, rank) => ({
          params: bytes(name, rank),
          moments: 2 * bytes(name, rank),
        })),
        gradientTenant(
          "actor@0",
          home,
          [schedule],
          (id) => id === "actor.train",
          CLUSTER,
          (rank) => bytes("actor", rank),
        ),
        ...calls.map((call): Tenant => {
          const { mesh } = replicas[
            (step.find((a) => a.op === "run" && a.call === call.id) as { replica: string }).replica
          ]!;
          return {
            name: call.id,
            first: mesh.device,
            devices: mesh.devices,
            bytes: (rank) => bytes(call.id, rank),
            spans: [callSpan(schedule, call.id)],
          };
        }),
      ];
      for (const [device, { bytes: top, offsets }] of poolOf(tenants)) {
        const spans = [...offsets].map(([name, from]) => {
          const at = step.flatMap((a, i) => neededBy(a).includes(name) ? [i] : []);
          const tenant = tenants.find((t) => t.name === name)!;
          return {
            name,
            from,
            to: from + tenant.bytes(device - tenant.first),
            begin: at[0]!,
            end: at.at(-1)!,
          };
        });
        for (const [i, x] of spans.entries()) {
          assert.ok(x.to <= top);
          for (const y of spans.slice(i + 1)) {
            const alive = x.begin <= y.end && y.begin <= x.end;
            assert.ok(!alive || x.to <= y.from || y.to <= x.from, `${x.name} lies over ${y.name}`);
          }
        }
      }
    }),
    { numRuns: 150 },
  );
});

Deno.test("oneForwardOneBackward() does everything once, behind what it needs, with few micro-batches in flight", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 8 }), fc.integer({ min: 1, max: 12 }), (stages, micros) => {
      const order = oneForwardOneBackward(stages, micros), done = new Map<string, number>();
      const name = (stage: number, pass: string, micro: number) => `${stage} ${pass} ${micro}`;
      for (const [at, { stage, pass, micro }] of order.entries()) {
        const needs = [
          ...(stage > 0 && (pass === "forward" || stage === stages - 1)
            ? [name(stage - 1, "forward", micro)]
            : []),
          ...(pass === "backward" && stage < stages - 1
            ? [name(stage, "forward", micro), name(stage + 1, "backward", micro)]
            : []),
          ...(micro > 0 ? [name(stage, pass, micro - 1)] : []),
        ];
        for (const need of needs) assert.ok(done.has(need), `${name(stage, pass, micro)} before ${need}`);
        assert.ok(!done.has(name(stage, pass, micro)));
        done.set(name(stage, pass, micro), at);
        const forwards = order.slice(0, at + 1).filter((w) =>
          w.stage === stage && w.pass === "forward"
        ).length;
        const backwards = order.slice(0, at + 1).filter((w) =>
          w.stage === stage && w.pass === "backward"
        ).length;
        if (stage < stages - 1) assert.ok(forwards - backwards <= inFlight(stages, stage, micros));
      }
      assert.equal(done.size, micros * (2 * stages - 1));
    }),
  );
});
