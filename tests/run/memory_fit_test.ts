/** What a run does when memory does not hold all pages that it could use, and what its step and its evaluation share. */
import assert from "node:assert/strict";
import { adamw, models, policyLoss, policyModel, prompts, type Workflow, workflow } from "../../mod.ts";
import { totalBytes } from "../../run/memory.ts";
import { Session } from "../../run/session.ts";
import { withWorld } from "./fixtures.ts";

function grouped(world: string, evaluates = false): Workflow {
  const { actor } = models({ actor: policyModel(`${world}/policy`, adamw({ lr: 1e-3 })) });
  const loss = policyLoss({}, (now) => now.logprobs.mean());
  const responses = actor.generate({ maxNewTokens: 30, samples: 4, ignoreEos: true });
  const data = prompts(`${world}/prompts.jsonl`, { batch: 16, heldOut: 0.25 });
  const flow = responses.then(actor.train(loss));
  return evaluates
    ? workflow({ name: "fit", data, flow, evaluate: { every: 1, prompts: 2, flow: responses } })
    : workflow({ name: "fit", data, flow });
}

async function open(flow: Workflow, memoryBytes: number): Promise<Session> {
  return await Session.open(flow, {
    steps: 1,
    seed: 1,
    // Small micro-batches: pages decide how much memory is needed in turn.
    machine: { devices: { nodes: 1, perNode: 1 }, threads: 1, memoryBytes, microBatchTokens: 64 },
    toolSeconds: 10,
    scorers: () => new Map(),
  });
}

/** Everything that one step made, and how many pages it had. */
async function step(flow: Workflow, memoryBytes: number) {
  const session = await open(flow, memoryBytes);
  try {
    const { cache, ranks } = session.main.programs.generate["actor.generate"]!, { decode } = ranks[0]![0]!;
    const { batch, result } = await session.step({});
    return {
      pages: cache.pages,
      most: cache.slots * cache.maxPages,
      least: cache.maxPages,
      pageBytes: decode.segmentBytes.kv / cache.pages,
      total: totalBytes(session.table),
      turn: session.table.find((row) => row.name === "in turn")!,
      tokens: batch.tokensOf("tokens").ids.map((ids) => [...ids]),
      metrics: result.metrics,
    };
  } finally {
    session.dispose();
  }
}

Deno.test("a run whose pages do not all fit takes those that do, preempts, and makes the same tokens", async () => {
  await withWorld(async (world) => {
    const flow = grouped(world), full = await step(flow, Infinity);
    assert.equal(full.pages, full.most);
    const same = (few: typeof full) => {
      assert.deepEqual(few.tokens, full.tokens);
      assert.deepEqual(few.metrics, full.metrics);
    };
    for (const pages of [full.most - 1, full.most - 20]) {
      const few = await step(flow, full.total - (full.most - pages) * full.pageBytes);
      assert.equal(few.pages, pages);
      same(few);
    }
    // The cache shares its memory with training, which needs what it needs.
    const training = full.turn.parts!.filter((part) => part.name !== "actor.generate");
    const floor = full.total - full.turn.bytes + training.reduce((n, part) => n + part.bytes, 0);
    const fewest = await step(flow, floor);
    assert.ok(fewest.pages >= fewest.least && fewest.pages < full.most - 20);
    same(fewest);
    await assert.rejects(step(flow, floor - 1), /^RangeError: Cannot run fit on this machine: it needs /);
  });
});

Deno.test("an evaluation generates in the memory of the step's own calls", async () => {
  await withWorld(async (world) => {
    const alone = await open(grouped(world), Infinity), both = await open(grouped(world, true), Infinity);
    try {
      const device = (s: Session) => s.table.filter((row) => row.where === "device");
      assert.deepEqual(device(both), device(alone));
      assert.equal(both.held!.data, both.main.data);
      const before = await both.evaluate({});
      const { batch } = await both.step({}), other = await alone.step({});
      assert.deepEqual(batch.tokensOf("tokens"), other.batch.tokensOf("tokens"));
      assert.equal(before.flatMap((b) => b.tokensOf("tokens").ids).length, 8);
    } finally {
      alone.dispose();
      both.dispose();
    }
  });
});
