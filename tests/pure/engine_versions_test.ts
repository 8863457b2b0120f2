import assert from "node:assert/strict";
import { checkReplica, StepVersions } from "../../engine/versions.ts";
import type { ReplicaSpec } from "../../ir/plan.ts";
import type { CallGraph, InferCall } from "../../ir/graph.ts";

const infer = {
  kind: "infer",
  id: "ref.infer",
  model: "ref",
  reads: { tokens: "tokens" },
  writes: {},
} as unknown as InferCall;
/** The model makes so many versions in a step. */
const graph = (trains = 1) =>
  ({
    calls: Array.from({ length: trains }, () => ({ kind: "train", model: "actor" })),
  }) as unknown as CallGraph;
const column = (version: number, model?: string, maxLag = 0) => ({
  ids: [new Int32Array(2)],
  actions: [Int32Array.of(1)],
  temperature: 1,
  versions: [version],
  ...(model !== undefined && { model, maxLag }),
});

Deno.test("StepVersions.check() refuses samples of older and of unknown newer weights", () => {
  const actor = { version: 3 }, versions = new StepVersions(graph(), () => new Map([["actor", actor]]));
  versions.begin();
  versions.check(infer, column(3, "actor"));
  assert.throws(
    () => versions.check(infer, column(2, "actor")),
    /sample 0 was made by version 2 of actor .* maxLag: 1/,
  );
  assert.throws(() => versions.check(infer, column(4, "actor")), /version 4/);
});

Deno.test("StepVersions.check() accepts a step's own samples after its training and declared lag", () => {
  const actor = { version: 3 }, versions = new StepVersions(graph(), () => new Map([["actor", actor]]));
  versions.begin();
  actor.version++;
  versions.check(infer, column(3, "actor", 1));
  versions.check(infer, column(2, "actor", 1));
  assert.throws(() => versions.check(infer, column(1, "actor", 1)), /declare generate\(\{ maxLag: 2 \}\)/);
  assert.throws(() => versions.check(infer, column(2, "actor")), /declare generate\(\{ maxLag: 1 \}\)/);
});

Deno.test("StepVersions.check() accepts samples of weights that the step itself has trained", () => {
  const actor = { version: 3 }, versions = new StepVersions(graph(), () => new Map([["actor", actor]]));
  versions.begin();
  assert.throws(() => versions.check(infer, column(4, "actor")), /version 4/);
  actor.version++;
  versions.check(infer, column(4, "actor"));
  assert.throws(() => versions.check(infer, column(5, "actor")), /version 5 .* generate it again$/);
});

Deno.test("StepVersions counts lag in steps: a model that trains twice a step makes two versions of it", () => {
  const actor = { version: 6 }, versions = new StepVersions(graph(2), () => new Map([["actor", actor]]));
  versions.begin();
  versions.check(infer, column(4, "actor", 1));
  assert.throws(() => versions.check(infer, column(3, "actor", 1)), /maxLag: 2/);
  assert.deepEqual([...versions.lags(column(4, "actor", 1))!], [2]);
  assert.equal(versions.lags(column(6, "actor")), null);
});

Deno.test("StepVersions.check() lets data pass", () => {
  const versions = new StepVersions(graph(), () => new Map([["actor", { version: 9 }]]));
  versions.begin();
  versions.check(infer, column(-1));
});

Deno.test("checkReplica() refuses a replica without weights, with older ones, and with newer ones than there are", () => {
  const at = (version: number | null, lag = 0) => ({
    name: "actor@1",
    version,
    spec: { lag } as ReplicaSpec,
  });
  const home = { version: 5 };
  checkReplica(infer, at(5), home);
  checkReplica(infer, at(4, 1), home);
  assert.throws(() => checkReplica(infer, at(null), home), /actor@1 holds no weights and the newest is 5/);
  assert.throws(
    () => checkReplica(infer, at(4), home),
    /actor@1 holds version 4 of ref and the newest is 5, bring/,
  );
  assert.throws(
    () => checkReplica(infer, at(3, 1), home),
    /version 3 of ref and the newest is 5, which may be 1 ahead/,
  );
  assert.throws(() => checkReplica(infer, at(6), home), /version 6/);
});
