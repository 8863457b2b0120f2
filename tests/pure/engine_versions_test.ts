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
const graph = (maxLag: number) =>
  ({ calls: [{ kind: "generate", model: "actor", sampling: { maxLag } }] }) as unknown as CallGraph;
const column = (version: number, model?: string) => ({
  ids: [new Int32Array(2)],
  actions: [Int32Array.of(1)],
  temperature: 1,
  versions: [version],
  ...(model !== undefined && { model }),
});

Deno.test("StepVersions.check() refuses samples of older and of unknown newer weights", () => {
  const actor = { version: 3 }, versions = new StepVersions(graph(0), () => new Map([["actor", actor]]));
  versions.begin();
  versions.check(infer, column(3, "actor"));
  assert.throws(
    () => versions.check(infer, column(2, "actor")),
    /sample 0 was made by version 2 of actor .* maxLag: 1/,
  );
  assert.throws(() => versions.check(infer, column(4, "actor")), /version 4/);
});

Deno.test("StepVersions.check() accepts a step's own samples after its training and declared lag", () => {
  const actor = { version: 3 }, versions = new StepVersions(graph(1), () => new Map([["actor", actor]]));
  versions.begin();
  actor.version++;
  versions.check(infer, column(3, "actor"));
  versions.check(infer, column(2, "actor"));
  assert.throws(() => versions.check(infer, column(1, "actor")));
});

Deno.test("StepVersions.check() lets data pass", () => {
  const versions = new StepVersions(graph(0), () => new Map([["actor", { version: 9 }]]));
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
