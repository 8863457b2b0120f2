import assert from "node:assert/strict";
import * as fc from "fast-check";
import { parse } from "../../engine/yaml.ts";
import { toJson } from "../../ir/json.ts";
import { meshOf, parseDevices, parseRange, parseStrategy, printGpus } from "../../ir/notation.ts";
import { devicesOf } from "../../ir/mesh.ts";
import { type Assignment, type ExecutionPlan, RECOMPUTE } from "../../ir/plan.ts";
import { completePlan, type Layout } from "../../planner/complete.ts";
import { parsePlanFile, type PlanFile, printPlan } from "../../planner/plan_file.ts";
import { ppo } from "./dsl_fixtures.ts";

Deno.test("parseStrategy() reads axes in any order, absent ones as 1", () => {
  assert.deepEqual(parseStrategy("dp2tp3pp4"), { dp: 2, tp: 3, pp: 4 });
  assert.deepEqual(parseStrategy("pp4dp2"), { dp: 2, tp: 1, pp: 4 });
  for (const wrong of ["", "dp", "dp0", "dp2dp2", "dp2 tp2", "2", "dp2x", "DP2", "dp02"]) {
    assert.equal(
      parseStrategy(wrong),
      `is "${wrong}", it must name each of dp, tp and pp once at most, as dp2tp2pp2 does`,
    );
  }
});

Deno.test("parseDevices() reads one node or several, of 1 to 16 devices", () => {
  assert.deepEqual(parseDevices("cpu:1"), { nodes: 1, perNode: 1 });
  assert.deepEqual(parseDevices("cpu:16"), { nodes: 1, perNode: 16 });
  assert.deepEqual(parseDevices("cpu:2x4"), { nodes: 2, perNode: 4 });
  for (
    const wrong of ["cpu", "cpu:0", "cpu:17", "cpu:5x4", "cpu:2x", "cpu:1.5", " cpu:1", "cpu:-1", "gpu:0"]
  ) {
    assert.equal(
      parseDevices(wrong),
      `is "${wrong}", it must be cpu:8 for 8 devices, cpu:2x4 for 2 nodes of 4, cuda:0,1 for GPUs 0 and 1 or cuda:0x4 for 4 ` +
        `devices on GPU 0, with 1 to 16 in all`,
    );
  }
});

Deno.test("parseDevices() reads GPUs, several of them, and several devices on one", () => {
  const of = (...gpus: number[]) => ({ nodes: 1, perNode: gpus.length, gpus });
  assert.deepEqual(parseDevices("cuda:0"), of(0));
  assert.deepEqual(parseDevices("cuda:2"), of(2));
  assert.deepEqual(parseDevices("cuda:0,1"), of(0, 1));
  assert.deepEqual(parseDevices("cuda:0x4"), of(0, 0, 0, 0));
  assert.deepEqual(parseDevices("cuda:0-2x2,7"), of(0, 0, 1, 1, 2, 2, 7));
  for (
    const wrong of ["cuda", "cuda:", "cuda:x4", "cuda:0x0", "cuda:2-1", "cuda:0x17", "cuda:0,", "cuda:01"]
  ) {
    assert.equal(typeof parseDevices(wrong), "string", wrong);
  }
});

Deno.test("printGpus() writes what parseDevices() reads", () => {
  assert.equal(printGpus([0, 0, 0, 0]), "cuda:0x4");
  fc.assert(fc.property(fc.array(fc.nat(9), { minLength: 1, maxLength: 16 }), (gpus) => {
    assert.deepEqual(parseDevices(printGpus(gpus)), { nodes: 1, perNode: gpus.length, gpus });
  }));
});

Deno.test("meshOf() makes devices of one node or whole nodes of a range, and of any other what no cluster has", () => {
  const of = (text: string) => {
    const range = parseRange(text);
    assert.ok(typeof range === "object", text);
    return meshOf(range, { devicesPerNode: 4 });
  };
  assert.deepEqual(of("3"), { node: 0, nodes: 1, device: 3, devices: 1 });
  assert.deepEqual(of("5-6"), { node: 1, nodes: 1, device: 1, devices: 2 });
  assert.deepEqual(of("4-11"), { node: 1, nodes: 2, device: 0, devices: 4 });
  assert.deepEqual(of("2-5"), { node: 0, nodes: 1, device: 2, devices: 4 });
  for (const wrong of ["", "7-0", "-1", "1-", "a", "1.5", "0-3,5"]) {
    assert.equal(parseRange(wrong), `is "${wrong}", it must be a device or a range of them, as 3 or 0-7`);
  }
});

const EXAMPLE = `
graph: "3f2a"
cluster: { nodes: 1, devicesPerNode: 8 }
defaults: { microBatchTokens: 4096, zero: 1 }
calls:
  actor.generate: { devices: 0-7, dp: 4, pp: 2 }
  ref.infer: { devices: 0, offload: true }
  actor.train: { devices: 0-3, dp: 2, pp: 2, zero: 0, recompute: layers, microBatchTokens: 2048 }
`;

Deno.test("parsePlanFile() reads the readable form, and a whole plan from JSON", () => {
  assert.deepEqual(parsePlanFile(parse(EXAMPLE), "p.yaml"), {
    origin: "p.yaml",
    graph: "3f2a",
    cluster: { nodes: 1, devicesPerNode: 8 },
    defaults: { microBatchTokens: 4096, zero: 1 },
    calls: {
      "actor.generate": { devices: { from: 0, to: 7 }, strategy: { dp: 4, tp: 1, pp: 2 } },
      "ref.infer": { devices: { from: 0, to: 0 }, strategy: { dp: 1, tp: 1, pp: 1 }, offload: true },
      "actor.train": {
        devices: { from: 0, to: 3 },
        strategy: { dp: 2, tp: 1, pp: 2 },
        zero: 0,
        recompute: "layers",
        microBatchTokens: 2048,
      },
    },
  });
  const mesh = { node: 0, nodes: 1, device: 2, devices: 2 };
  const assignment: Assignment = {
    mesh,
    strategy: { dp: 1, tp: 2, pp: 1 },
    microBatchTokens: 7,
    zero: 0,
    recompute: "cheap",
    offload: false,
  };
  const plan: ExecutionPlan = {
    version: 1,
    graph: "0a",
    cluster: { nodes: 1, devicesPerNode: 4, memoryBytes: 9, links: [] },
    assignments: { "a.infer": assignment },
  };
  const { mesh: _, ...rest } = assignment;
  assert.deepEqual(parsePlanFile(JSON.parse(toJson(plan)), "p.json"), {
    origin: "p.json",
    graph: "0a",
    cluster: { nodes: 1, devicesPerNode: 4 },
    defaults: {},
    calls: { "a.infer": { devices: mesh, ...rest } },
  });
});

Deno.test("parsePlanFile() lists every fault of form with its path", () => {
  const wrong = `
graph: 12345
cluster: { nodes: 1 }
default: {}
defaults: { recompute: some, offload: true }
calls:
  a.infer: { devices: 7-0, dp: 0, tpp: 2 }
  b.infer: { dp: 2, zero: 2 }
`;
  assert.throws(() => parsePlanFile(parse(wrong), "p.yaml"), {
    name: "TypeError",
    message: "Cannot use p.yaml: " + [
      'plan.calls.a.infer.devices is "7-0", it must be a device or a range of them, as 3 or 0-7',
      "plan.calls.a.infer.dp is 0, it must be a whole number above 0",
      "plan.calls.a.infer.tpp is unknown",
      "plan.calls.b.infer.devices is missing",
      "plan.calls.b.infer.zero is 2, it must be 0 or 1",
      'plan.graph is 12345, it must be the digest of a graph in quotes, "3f2a…"',
      "plan.cluster.devicesPerNode is missing",
      "plan.default is unknown",
      'plan.defaults.recompute is "some", it must be "nothing" or "logits" or "cheap" or "layers"',
      "plan.defaults.offload is unknown",
    ].join("; ") + ", see docs/parallelism.md for its form",
  });
  assert.throws(
    () => parsePlanFile(null, "p.yaml"),
    /^TypeError: Cannot use p\.yaml: plan must be an object/,
  );
  assert.throws(
    () => parsePlanFile({ assignments: {}, version: 2 }, "p.json"),
    /Cannot use p\.json: plan\.version is 2, it must be 1; plan\.graph is missing; plan\.cluster is missing/,
  );
});

const { graph } = ppo();
/** Legal layouts on 2 nodes of 4. */
const layout = fc.record({ from: fc.nat(7), size: fc.constantFrom(1, 2, 3, 4, 8) }).filter(({ from, size }) =>
  size === 8 ? from === 0 : from % 4 + size <= 4
).chain(({ from, size }) => {
  const products = [1, 2, 3, 4, 8].flatMap((dp) =>
    [1, 2, 3, 4, 8].map((tp) => ({ dp, tp, pp: size / (dp * tp) }))
  )
    .filter(({ pp }) => Number.isInteger(pp));
  return fc.record({
    mesh: fc.constant(meshOf({ from, to: from + size - 1 }, { devicesPerNode: 4 })),
    strategy: fc.constantFrom(...products),
    microBatchTokens: fc.integer({ min: 1, max: 9 }),
    recompute: fc.constantFrom(...RECOMPUTE),
    zero: fc.constantFrom(0 as const, 1 as const),
    offload: fc.boolean(),
  });
});
const ids = fc.uniqueArray(
  fc.oneof(
    fc.constantFrom(...graph.calls.map((c) => c.id), "ref.infer#2", "null", "1e3", "yes", "a: b", '"', "x.1"),
    fc.string({ minLength: 1 }),
  ).filter((id) => id !== "__proto__"),
  { minLength: 1, maxLength: 8 },
);

Deno.test("printPlan() writes YAML that reads back equal", () => {
  const cluster = { nodes: 2, devicesPerNode: 4, memoryBytes: 1, links: [] };
  fc.assert(
    fc.property(ids, fc.array(layout, { minLength: 8, maxLength: 8 }), fc.nat(), (names, layouts, number) => {
      const digest = number.toString(10).padStart(16, "0");
      const plan: ExecutionPlan = {
        version: 1,
        graph: digest,
        cluster,
        assignments: Object.fromEntries(names.map((id, i) => [id, { ...layouts[i]! }])),
      };
      const file = parsePlanFile(parse(printPlan(plan)), "p.yaml");
      const back = completePlan({
        graph,
        digest: file.graph!,
        cluster: { ...cluster, ...file.cluster },
        sizes: { sequences: 1, group: 1, longest: 1 },
        layouts: layoutsOf(file),
        microBatchTokens: file.defaults.microBatchTokens!,
        recompute: file.defaults.recompute!,
      });
      assert.deepEqual(back, plan);
    }),
  );
});

const layoutsOf = (file: PlanFile): Record<string, Layout> =>
  Object.fromEntries(
    Object.entries(file.calls).map(([id, { devices, ...call }]) => [
      id,
      { ...call, mesh: "node" in devices ? devices : meshOf(devices, { devicesPerNode: 4 }) },
    ]),
  );

Deno.test("printPlan() writes one short line a call", () => {
  const usual = { microBatchTokens: 4096, zero: 0, recompute: "nothing", offload: false } as const;
  const place = (device: number, devices: number, dp: number, tp: number, pp: number) => ({
    ...usual,
    mesh: { node: 0, nodes: 1, device, devices },
    strategy: { dp, tp, pp },
  });
  const plan: ExecutionPlan = {
    version: 1,
    graph: "00112233445566ff",
    cluster: { nodes: 1, devicesPerNode: 8, memoryBytes: 1, links: [] },
    assignments: {
      "actor.generate": place(0, 8, 4, 1, 2),
      "ref.infer": { ...place(7, 1, 1, 1, 1), offload: true },
      "actor.train": { ...place(0, 4, 2, 1, 2), zero: 1, recompute: "layers", microBatchTokens: 2048 },
      "ref.infer#2": place(4, 4, 1, 4, 1),
    },
  };
  assert.deepEqual(devicesOf(plan.assignments["actor.train"]!.mesh, plan.cluster), [0, 1, 2, 3]);
  assert.equal(
    printPlan(plan),
    `graph: "00112233445566ff"
cluster: { nodes: 1, devicesPerNode: 8 }
defaults: { microBatchTokens: 4096, recompute: nothing }
calls:
  actor.generate: { devices: 0-7, dp: 4, pp: 2 }
  ref.infer: { devices: 7, offload: true }
  actor.train: { devices: 0-3, dp: 2, pp: 2, microBatchTokens: 2048, recompute: layers, zero: 1 }
  "ref.infer#2": { devices: 4-7, tp: 4 }
`,
  );
});
