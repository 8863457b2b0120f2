/** A run that does not fit is refused before anything is allocated, and told a change with which it fits. */
import type { Recompute } from "../../ir/plan.ts";
import assert from "node:assert/strict";
import { parsePlanFile } from "../../planner/plan_file.ts";
import { parseProfile } from "../../planner/profile.ts";
import { adamw, conversations, models, policyModel, sft, type Workflow, workflow } from "../../mod.ts";
import type { Machine } from "../../run/machine.ts";
import { totalBytes } from "../../run/memory.ts";
import { Session } from "../../run/session.ts";
import { jsonLines, ROOT, tinyModel, withWorld } from "./fixtures.ts";

/** Long sequences and a small model: activations are most of what it needs. */
async function flow(world: string, batch = 16): Promise<Workflow> {
  await tinyModel(`${world}/policy`);
  await jsonLines(
    `${world}/long.jsonl`,
    Array.from({ length: 32 }, () => ({ text: "the cat sat on a mat with no dogs" })),
  );
  const { m } = models({ m: policyModel(`${world}/policy`, adamw({ lr: 1e-3 })) });
  return workflow({
    name: "long",
    data: conversations(`${world}/long.jsonl`, { batch }),
    flow: m.train(sft()),
  });
}

const open = (w: Workflow, machine: Machine) =>
  Session.open(w, { steps: 1, seed: 1, machine, toolSeconds: 10, scorers: () => new Map() });

/** Bytes of a run that has enough. */
async function bytes(w: Workflow, machine: Machine): Promise<number> {
  const session = await open(w, machine);
  try {
    return totalBytes(session.table);
  } finally {
    session.dispose();
  }
}

/** What the refusal says that would fit, as options. */
async function advice(w: Workflow, machine: Machine): Promise<Record<string, string>> {
  let message = "";
  await assert.rejects(open(w, machine), (error: Error) => {
    message = `${error}`;
    return true;
  });
  assert.match(
    message,
    /^RangeError: Cannot run long on this machine: it needs \d+ MiB and \d+ MiB are free \(largest: /,
  );
  return Object.fromEntries([...message.matchAll(/(\w+): (\w+)(?= and |$)/g)].map((m) => [m[1]!, m[2]!]));
}

const MANY: Machine = { devices: { nodes: 1, perNode: 2 }, threads: 1, memoryBytes: 2 ** 40 };
const MACHINES: Readonly<Record<string, Machine>> = {
  "on one device": { ...MANY, devices: { nodes: 1, perNode: 1 } },
  "under a strategy": { ...MANY, strategy: { dp: 1, tp: 1, pp: 2 } },
  "under a plan": {
    ...MANY,
    planFile: parsePlanFile({ calls: { "m.train": { devices: "0-1", dp: 2, zero: 1 } } }, "the test's plan"),
  },
};

for (const [name, machine] of Object.entries(MACHINES)) {
  Deno.test(`a run ${name} that does not fit is told what is enough, and that is enough`, async () => {
    await withWorld(async (world) => {
      const w = await flow(world), memoryBytes = await bytes(w, machine) - 1;
      const { microBatchTokens, recompute } = await advice(w, { ...machine, memoryBytes });
      assert.ok(microBatchTokens || recompute);
      const mended: Machine = {
        ...machine,
        memoryBytes,
        ...microBatchTokens && { microBatchTokens: Number(microBatchTokens) },
        ...recompute && { recompute: recompute as Recompute },
      };
      assert.ok(await bytes(w, mended) <= memoryBytes);
    });
  });
}

Deno.test("where no plan is enough, a smaller batch is named; where that is not, what can be lowered", async () => {
  await withWorld(async (world) => {
    const one = MACHINES["on one device"]!, w = await flow(world);
    const least = { ...one, microBatchTokens: 48, recompute: "layers" as const };
    const memoryBytes = await bytes(await flow(world, 4), least);
    await assert.rejects(
      open(w, { ...one, memoryBytes }),
      /, it fits with a batch of \d+, microBatchTokens: \d+ and recompute: layers$/,
    );
    await assert.rejects(
      open(w, { ...one, memoryBytes: 2 ** 20 }),
      /, lower the batch, maxNewTokens or microBatchTokens/,
    );
  });
});

Deno.test("a run that plans by itself is refused with a change of its step, not of its machine", async () => {
  await withWorld(async (world) => {
    const text = await Deno.readTextFile(`${ROOT}profiles/cpu.json`),
      profile = parseProfile(JSON.parse(text), "cpu");
    const assumptions = { profile, links: profile.links, hostSeconds: {} };
    const w = await flow(world);
    // The planner wants less than a run has beside its devices: memory in which some smaller step fits is looked for.
    const refusals: string[] = [];
    for (let memoryBytes = 2 ** 17; memoryBytes < 2 ** 22 && refusals.length < 40; memoryBytes *= 1.25) {
      await open(w, { ...MANY, memoryBytes, assumptions }).then(
        (s) => s.dispose(),
        (error: Error) => void refusals.push(error.message),
      );
    }
    const own = refusals.filter((r) => r.startsWith("Cannot plan"));
    for (const r of own) {
      assert.match(
        r,
        /^Cannot plan long on 2 devices: (m\.train alone lacks|every call fits) .*[\d.]+ [KMG]iB on /,
      );
      assert.doesNotMatch(r, /on 4 devices/);
    }
    assert.ok(own.some((r) => / it fits with .*with a batch of \d+$/.test(r)), own.join("\n"));
  });
});
