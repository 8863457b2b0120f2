import assert from "node:assert/strict";
import * as fc from "fast-check";
import { canonical, digest, fnv1a } from "../../ir/digest.ts";
import { graphFromJson, planFromJson, toJson } from "../../ir/json.ts";
import type { CallGraph } from "../../ir/graph.ts";
import type { ExecutionPlan } from "../../ir/plan.ts";
import { chain, ppo, randomStages, rewardModelling } from "./dsl_fixtures.ts";

Deno.test("graphs round-trip through JSON", () => {
  for (const graph of [ppo().graph, ppo().evaluation!.graph, rewardModelling().graph]) {
    assert.deepEqual(graphFromJson(toJson(graph)), graph);
  }
  const { graph } = ppo(), { actor } = graph.models;
  const lora = { rank: 4, alpha: 8, targets: ["q_proj", "up_proj"], from: "adapters/old" } as const;
  const source = {
    ...graph.source,
    columns: { prompt: "ask" },
    chat: true,
    maxTokens: 9,
    longRows: "skip",
  } as const;
  const more = { ...graph, source, models: { ...graph.models, actor: { ...actor!, lora } } };
  assert.deepEqual(graphFromJson(toJson(more)), more);
  const unknown = {
    ...more,
    models: { ...more.models, actor: { ...actor, lora: { ...lora, targets: ["head"] } } },
  };
  assert.throws(() => graphFromJson(JSON.stringify(unknown)), /actor\.lora\.targets.*"q_proj" or "k_proj"/);
  fc.assert(
    fc.property(randomStages, (stages) => {
      const { graph } = chain(stages), back = graphFromJson(toJson(graph));
      assert.deepEqual(back, graph);
      assert.equal(digest(back), digest(graph));
    }),
    { numRuns: 60 },
  );
});

const plan: ExecutionPlan = {
  version: 1,
  graph: "0123456789abcdef",
  cluster: {
    nodes: 1,
    devicesPerNode: 1,
    memoryBytes: 1e9,
    links: [{ devices: 2, microseconds: 5, GBps: 100 }],
  },
  assignments: {
    "actor.train": {
      mesh: { node: 0, nodes: 1, device: 0, devices: 1 },
      strategy: { dp: 1, tp: 1, pp: 1 },
      microBatchTokens: 4096,
      zero: 0,
      recompute: "cheap",
      offload: true,
    },
  },
};

Deno.test("plans round-trip through JSON", () => assert.deepEqual(planFromJson(toJson(plan)), plan));

Deno.test("graphFromJson() refuses other versions and malformed text", () => {
  const other = JSON.stringify({ ...ppo().graph, version: 2 });
  assert.throws(
    () => graphFromJson(other),
    /Cannot read a graph: it has version 2 and this Baton reads 1, make it again/,
  );
  for (const text of ["{}", "null", "[]", "3"]) {
    assert.throws(() => graphFromJson(text), /it has version (none|undefined)|version/);
  }
  assert.throws(() => graphFromJson("{"), /Cannot read a graph: its JSON is malformed/);
  assert.throws(() => planFromJson(JSON.stringify({ ...plan, version: "1" })), /it has version "1"/);
});

Deno.test("graphFromJson() lists every difference with its path", () => {
  // deno-lint-ignore no-explicit-any -- broken on purpose
  const graph = structuredClone(ppo().graph) as any;
  graph.models.actor.optimizer.lr = "fast";
  graph.calls[0].sampling.topQ = 1;
  delete graph.calls[1].writes;
  graph.calls[2].kind = "guess";
  graph.fields.values.per = "word";
  graph.source.batch = 1.5;
  assert.throws(() => graphFromJson(JSON.stringify(graph)), (error: Error) => {
    const expected = [
      /graph\.models\.actor\.optimizer\.lr is "fast", it must be a number/,
      /graph\.calls\[0\]\.sampling\.topQ is unknown/,
      /graph\.calls\[1\]\.writes is missing/,
      /graph\.calls\[2\]\.kind is "guess", it must be one of generate, infer, train, compute, score/,
      /graph\.fields\.values\.per is "word", it must be "token" or "sequence" or "pair" or "batch"/,
      /graph\.source\.batch is 1\.5, it must be a whole number, 0 or more/,
    ];
    for (const part of expected) assert.match(error.message, part);
    return error instanceof TypeError;
  });
});

Deno.test("graphFromJson() checks the specification", () => {
  const graph = { ...ppo().graph, states: {} };
  assert.throws(
    () => graphFromJson(JSON.stringify(graph)),
    /Cannot use graph "ppo": .*which is not declared/,
  );
});

Deno.test("digest() ignores the lines of the script and the order of keys", () => {
  const { graph } = ppo();
  const moved: CallGraph = { ...graph, calls: graph.calls.map((c) => ({ ...c, site: "other.ts:1" })) };
  const siteless: CallGraph = {
    ...graph,
    calls: graph.calls.map(({ site: _, ...c }) => c as typeof graph.calls[number]),
  };
  assert.equal(digest(moved), digest(graph));
  assert.equal(digest(siteless), digest(graph));
  assert.equal(
    digest(Object.fromEntries(Object.entries(graph).reverse()) as unknown as CallGraph),
    digest(graph),
  );
  assert.match(digest(graph), /^[0-9a-f]{16}$/);
});

Deno.test("digest() changes with anything that the graph does", () => {
  assert.notEqual(digest(ppo({ lr: 2e-6 }).graph), digest(ppo().graph));
  /** Paths of all leaves of a value, `site` apart. */
  const leaves = (value: unknown, path: readonly string[] = []): string[][] =>
    typeof value === "object" && value !== null
      ? Object.entries(value).flatMap(([k, v]) => k === "site" ? [] : leaves(v, [...path, k]))
      : [[...path]];
  const { graph } = ppo(), all = leaves(graph), now = digest(graph);
  fc.assert(
    fc.property(fc.constantFrom(...all), (path) => {
      const copy = structuredClone(graph) as unknown as Record<string, unknown>;
      let at = copy;
      for (const key of path.slice(0, -1)) at = at[key] as Record<string, unknown>;
      const last = path.at(-1)!, old = at[last];
      at[last] = typeof old === "number" ? old + 1 : typeof old === "boolean" ? !old : `${old}x`;
      assert.notEqual(digest(copy as unknown as CallGraph), now, path.join("."));
    }),
    { numRuns: 100 },
  );
});

Deno.test("fnv1a() gives the published values", () => {
  assert.deepEqual(["", "a", "foobar"].map(fnv1a), [
    "cbf29ce484222325",
    "af63dc4c8601ec8c",
    "85944171f73967e8",
  ]);
});

Deno.test("canonical() sorts keys at every depth and keeps lists", () => {
  assert.equal(canonical({ b: [{ d: 1, c: 2 }], a: null }), '{"a":null,"b":[{"c":2,"d":1}]}');
});
