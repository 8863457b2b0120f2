import assert from "node:assert/strict";
import { Safetensors } from "../../engine/safetensors.ts";
import {
  adamw,
  conversations,
  lora,
  models,
  policyLoss,
  policyModel,
  run,
  scoreTokens,
  valueModel,
  type Workflow,
  workflow,
} from "../../mod.ts";
import { perToken } from "../../ir/field.ts";
import type { Machine } from "../../run/machine.ts";
import { Session } from "../../run/session.ts";
import { withWorld } from "./fixtures.ts";

const ADAPTER = { rank: 2, alpha: 3 } as const;

/** Learns the texts, held to a reference. */
function imitation(world: string, options: Parameters<typeof lora>[0] = ADAPTER): Workflow {
  const { actor, ref } = models({
    actor: policyModel(`${world}/policy`, adamw({ lr: 5e-3 }), lora(options)),
    ref: policyModel(`${world}/policy`),
  });
  const loss = policyLoss({ refLogprobs: perToken }, (now, batch) => {
    const apart = now.logprobs.sub(batch.refLogprobs);
    return {
      loss: now.logprobs.mean().neg().add(apart.square().mean().mul(0.01)),
      metrics: { apart: apart.mean() },
    };
  });
  return workflow({
    name: "imitation",
    data: conversations(`${world}/texts.jsonl`, { batch: 4 }),
    flow: ref.infer().as("refLogprobs").then(actor.infer(), actor.train(loss)),
  });
}

const machine = (devices = 1, strategy = { dp: 1, tp: 1, pp: 1 }): Machine => ({
  devices: { nodes: 1, perNode: devices },
  threads: 1,
  memoryBytes: Infinity,
  strategy,
});
async function opened<T>(flow: Workflow, m: Machine, use: (session: Session) => Promise<T>): Promise<T> {
  const session = await Session.open(flow, {
    steps: 6,
    seed: 1,
    machine: m,
    scorers: () => new Map(),
    toolSeconds: 1,
  });
  try {
    return await use(session);
  } finally {
    session.dispose();
  }
}
/** Parameters and moments of what is trained. */
const stateOf = ({ engine }: Session) => {
  const home = engine.home("actor"), trained = engine.models["actor"]!.parameters.filter((p) => !p.frozen);
  return trained.flatMap((p) => (["param", "m", "v"] as const).map((part) => home.read(p, part)));
};

Deno.test("a run trains an adapter, writes it and the merged model, and the merged model says what the adapter says", async () => {
  await withWorld(async (world) => {
    const out = `${world}/out`;
    const { metrics } = await run(imitation(world), {
      steps: 6,
      out,
      quiet: true,
      threads: 1,
      script: import.meta.url,
    });
    assert.ok(metrics["actor/apart"]! > 0.05, "it learns");
    const names = (path: string) => [...Deno.readDirSync(path)].map((e) => e.name).sort();
    assert.deepEqual(names(`${out}/adapters/actor`), ["adapter_config.json", "adapter_model.safetensors"]);
    assert.deepEqual(names(`${out}/checkpoints/step-000006`), [
      "actor",
      "actor.m.safetensors",
      "actor.v.safetensors",
      "state.json",
    ]);
    const config = JSON.parse(Deno.readTextFileSync(`${out}/adapters/actor/adapter_config.json`));
    assert.deepEqual([
      config.peft_type,
      config.task_type,
      config.r,
      config.lora_alpha,
      config.target_modules.length,
    ], [
      "LORA",
      "CAUSAL_LM",
      2,
      3,
      7,
    ]);
    using adapter = await Safetensors.open(`${out}/adapters/actor/adapter_model.safetensors`);
    using merged = await Safetensors.open(out);
    using base = await Safetensors.open(`${world}/policy`);
    const key = "base_model.model.model.layers.1.self_attn.o_proj";
    assert.deepEqual(adapter.tensors.get(`${key}.lora_A.weight`)!.shape, [2, 16]);
    assert.deepEqual(adapter.tensors.get(`${key}.lora_B.weight`)!.shape, [16, 2]);
    assert.deepEqual([...merged.tensors.keys()], [...base.tensors.keys()]);

    const continued = imitation(world, { ...ADAPTER, from: `${out}/adapters/actor` });
    const items = [{ tokens: [3, 1, 4, 1, 5, 9, 2, 6] }];
    const [said] = await Array.fromAsync(scoreTokens(out, items, { threads: 1 }));
    const [before] = await Array.fromAsync(scoreTokens(`${world}/policy`, items, { threads: 1 }));
    assert.ok(said!.logprobs.some((x, i) => Math.abs(x - before!.logprobs[i]!) > 0.1));
    const file = `${world}/texts.jsonl`;
    await Deno.writeTextFile(file, `${JSON.stringify(items[0])}\n`.repeat(4));
    await opened(continued, machine(), async (session) => {
      const { batch } = await session.step({});
      for (const [name, expected] of [["refLogprobs", before], ["logprobs", said]] as const) {
        const { values } = batch.numbersOf(name);
        [...values[0] as Float32Array].forEach((x, i) =>
          assert.ok(Math.abs(x - expected!.logprobs[i]!) < 1e-4, `${name} ${i}`)
        );
      }
    });
  });
});

Deno.test("an adapter alone is exported when that is asked for, and loads as the start of another one", async () => {
  await withWorld(async (world) => {
    const out = `${world}/out`, o = { quiet: true, threads: 1, script: import.meta.url };
    await run(imitation(world), { steps: 2, out, saveLora: "adapter", ...o });
    assert.throws(() => Deno.statSync(`${out}/model.safetensors`));
    const from = `${out}/adapters/actor`, resumed = imitation(world, { ...ADAPTER, from });
    const written = await Safetensors.open(`${from}/adapter_model.safetensors`);
    await opened(resumed, machine(2, { dp: 1, tp: 2, pp: 1 }), async ({ engine }) => {
      for (const p of engine.models["actor"]!.parameters.filter((p) => !p.frozen)) {
        assert.deepEqual(engine.home("actor").read(p), await written.read(`base_model.model.${p.name}`));
      }
    });
    written[Symbol.dispose]();
    for (
      const [options, why] of [
        [{ rank: 3, alpha: 3 }, /r is 2 and the model's is 3/],
        [{ rank: 2 }, /lora_alpha is 3 and the model's is 4/],
        [{ ...ADAPTER, targets: ["q_proj"] }, /target_modules is "down_proj .*" and the model's is "q_proj"/],
      ] as const
    ) {
      await assert.rejects(
        opened(imitation(world, { ...options, from }), machine(), async () => {}),
        (e: Error) => {
          assert.match(e.message, /^Cannot load the adapter .*, give lora\(\) the same$/);
          assert.match(e.message, why);
          return true;
        },
      );
    }
  });
});

Deno.test("a checkpoint of an adapter resumes bit for bit under the plan that wrote it and under others", async () => {
  await withWorld(async (world) => {
    const flow = imitation(world), folder = `${world}/checkpoints`;
    const { path, state, next } = await opened(flow, machine(2, { dp: 1, tp: 2, pp: 1 }), async (session) => {
      await session.step({});
      await session.step({});
      const path = await session.save(folder), state = stateOf(session);
      await session.step({});
      return { path, state, next: stateOf(session) };
    });
    for (
      const [devices, strategy] of [
        [2, { dp: 1, tp: 2, pp: 1 }],
        [1, { dp: 1, tp: 1, pp: 1 }],
        [4, { dp: 2, tp: 1, pp: 2 }],
      ] as const
    ) {
      await opened(flow, machine(devices, strategy), async (session) => {
        await session.resume(path);
        assert.deepEqual(stateOf(session), state);
        await session.step({});
        if (strategy.tp === 2) assert.deepEqual(stateOf(session), next);
      });
    }
  });
});

Deno.test("the byte table says that the reference has no weights of its own, and how small gradients and moments are", async () => {
  await withWorld(async (world) => {
    await opened(imitation(world), machine(), (session) => {
      const bytes = (name: string) => session.table.find((row) => row.name === name)?.bytes;
      assert.equal(bytes("ref params, those of actor"), 0);
      assert.equal(bytes("ref params"), undefined);
      const turn = session.table.find((row) => row.name === "in turn")!.parts!;
      const all = bytes("actor params")!, grads = turn.find((part) => part.name === "actor@0 grads")!.bytes;
      assert.equal(bytes("actor moments"), 2 * grads);
      assert.ok(grads < all / 2);
      return Promise.resolve();
    });
  });
});

Deno.test("a critic trains its scalar head beside its adapter", async () => {
  await withWorld(async (world) => {
    const { critic } = models({
      critic: valueModel(`${world}/policy`, adamw({ lr: 1e-2 }), lora({ rank: 2 })),
    });
    const { valueLoss } = await import("../../mod.ts");
    const flow = workflow({
      name: "critic",
      data: conversations(`${world}/texts.jsonl`, { batch: 4 }),
      flow: critic.train(valueLoss({}, (now) => now.values.sub(1).square().mean())),
    });
    await opened(flow, machine(), async (session) => {
      const path = await session.save(`${world}/checkpoints`);
      await session.step({});
      const losses = [];
      for (let i = 0; i < 4; i++) losses.push((await session.step({})).result.metrics["critic/loss"]!);
      assert.ok(losses[3]! < 0.8 * losses[0]!, String(losses));
      using written = await Safetensors.open(`${path}/critic/adapter_model.safetensors`);
      assert.deepEqual(written.tensors.get("base_model.model.score.weight")!.shape, [1, 16]);
    });
  });
});
