/** Plans that are kept on disk: found again for the same question, and only while they hold. */
import assert from "node:assert/strict";
import { type AutoPlan, autoPlan } from "../../run/auto_plan.ts";
import { keepProfile, profileOfMachine } from "../../run/profiles.ts";
import { planFolder } from "../../run/plan_cache.ts";
import type { CostInput } from "../../planner/call_cost.ts";
import { grpoGraph, inputOf, profile } from "../pure/planner_fixtures.ts";
import { withFolder } from "./shared.ts";

const CPU = profile("cpu");
const input = inputOf(grpoGraph({ batch: 4, maxNew: 16 }), { profile: CPU, layers: 2, memoryGiB: 64 });

/** Runs with a cache of its own. */
async function withCache(fn: () => Promise<void>): Promise<void> {
  await withFolder(async (folder) => {
    const old = Deno.env.get("BATON_CACHE");
    Deno.env.set("BATON_CACHE", `${folder}/cache`);
    try {
      await fn();
    } finally {
      if (old === undefined) Deno.env.delete("BATON_CACHE");
      else Deno.env.set("BATON_CACHE", old);
    }
  });
}

const notes: string[] = [];
async function plan(change: Partial<CostInput> = {}): Promise<AutoPlan> {
  notes.length = 0;
  return await autoPlan({ ...input, ...change }, (line) => void notes.push(line));
}
const found = ({ line }: AutoPlan): boolean => line.startsWith("planned, found before:");
const entries = (): string[] => [...Deno.readDirSync(planFolder())].map((e) => `${planFolder()}/${e.name}`);
const memory = (gib: number) => ({ cluster: { ...input.cluster, memoryBytes: gib * 2 ** 30 } });

Deno.test("a second question is answered from disk with the same plan, another one is searched for", async () => {
  await withCache(async () => {
    const first = await plan(), second = await plan();
    assert.deepEqual([found(first), found(second)], [false, true]);
    assert.deepEqual(second.file, first.file);
    assert.equal(second.seconds, first.seconds);
    const { workload } = input;
    for (
      const change of [
        { workload: { ...workload, responses: [3] } },
        { workload: { ...workload, hostSeconds: { rewards: 1 } } },
        { profile: { ...CPU, submitMicroseconds: 99 } },
        { graph: grpoGraph({ batch: 4, maxNew: 15 }) },
      ]
    ) assert.ok(!found(await plan(change)));
    assert.equal(entries().length, 5);
    assert.deepEqual(notes, []);
  });
});

Deno.test("a plan holds for the memory that a machine has free today, unless that is too little or far more", async () => {
  await withCache(async () => {
    await plan();
    assert.ok(found(await plan(memory(60))));
    assert.ok(!found(await plan(memory(200))));
    await assert.rejects(plan(memory(5)), /^RangeError: Cannot plan grpo on 2 devices: /);
  });
});

Deno.test("a damaged file is said and planned around, and one of another cost model is made again", async () => {
  await withCache(async () => {
    const { file } = await plan(), [path] = entries() as [string], text = Deno.readTextFileSync(path);
    for (const damaged of [text.slice(0, 99), "[]", text.replace(/"key":"\w+"/, '"key":"0"')]) {
      Deno.writeTextFileSync(path, damaged);
      const again = await plan();
      assert.ok(!found(again));
      assert.deepEqual(again.file, file);
      assert.equal(notes.length, 1);
      assert.match(notes[0]!, /^the plan in .*\.json cannot be used \(.*\): planning anew$/);
      assert.equal(Deno.readTextFileSync(path), text);
    }
    Deno.writeTextFileSync(path, text.replace(/"seconds":[\d.e-]+/, '"seconds":1'));
    assert.ok(!found(await plan()));
    assert.deepEqual(notes, []);
  });
});

Deno.test("a cache that cannot be written costs a search and no run", async () => {
  await withCache(async () => {
    Deno.writeTextFileSync(Deno.env.get("BATON_CACHE")!, "a file");
    await plan();
    assert.match(notes.join("\n"), /^the plan cannot be kept in .*: the next start searches again$/);
  });
});

Deno.test("a run plans with the profile that was measured here, of as many threads and the nearest number of devices", async () => {
  await withCache(async () => {
    assert.equal((await profileOfMachine(2, 1)).name, CPU.name);
    const keep = (name: string, count: number, threads: number) =>
      keepProfile(JSON.stringify({ ...CPU, name }), count, threads);
    await keep("two", 2, 1);
    await keep("eight", 8, 1);
    await keep("wide", 2, 4);
    const names = await Promise.all(
      ([[1, 1], [2, 1], [16, 1], [4, 4], [4, 2]] as const).map(async ([n, t]) =>
        (await profileOfMachine(n, t)).name
      ),
    );
    const damaged = await keepProfile("{", 3, 1);
    await assert.rejects(profileOfMachine(3, 1), (error: Error) => {
      assert.ok(error.message.startsWith(`Cannot use ${damaged}: it is not valid JSON`));
      return true;
    });
    assert.deepEqual(names, ["two", "two", "eight", "wide", CPU.name]);
  });
});
