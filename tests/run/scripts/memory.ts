/** PPO on a model of some tens of MB; prints how much resident memory the run took and how much its byte table says. */
import {
  adamw,
  flags,
  gae,
  models,
  policyModel,
  ppoClip,
  prompts,
  rewardModel,
  run,
  score,
  shapedRewards,
  text,
  valueClip,
  valueModel,
  workflow,
} from "../../../mod.ts";
import { Devices } from "../../../engine/devices.ts";
import { runFlags } from "../../../run/flags.ts";
import { checkedMemory } from "../../../run/memory.ts";
import { loadModels } from "../../../run/models.ts";
import { prepareGraphs } from "../../../run/prepare.ts";
import { resolveOptions } from "../../../run/resolve.ts";
import { scratchOf } from "../../../run/scratch.ts";
import { z } from "zod";

const o = flags({ world: z.string() });
const THREADS = 2;

const { actor, critic, ref, reward } = models({
  actor: policyModel(`${o.world}/policy`, adamw({ lr: 1e-4 })),
  critic: valueModel(`${o.world}/policy`, adamw({ lr: 1e-4 })),
  ref: policyModel(`${o.world}/policy`),
  reward: rewardModel(`${o.world}/reward`),
});
const letters = score("letters", { response: text }, ({ response }) => response.length);
const ppo = workflow({
  name: "memory",
  data: prompts(`${o.world}/prompts.jsonl`, { batch: 8 }),
  flow: actor.generate({ maxNewTokens: 48, samples: 2 })
    .then(reward.infer(), ref.infer().as("refLogprobs"), critic.infer(), letters)
    .then(shapedRewards({ beta: 0.1 }))
    .then(gae({ gamma: 1, lambda: 0.95 }))
    .then(actor.train(ppoClip({ epsilon: 0.2 })), critic.train(valueClip())),
});
export default ppo;

/** A figure of /proc/self/status, in bytes. */
function status(name: string): number {
  const line = Deno.readTextFileSync("/proc/self/status").split("\n").find((line) =>
    line.startsWith(`${name}:`)
  )!;
  return 1024 * Number(line.split(/\s+/)[1]);
}

async function table() {
  const { machine } = await resolveOptions(ppo, { steps: 3, threads: THREADS, ...runFlags() });
  const free = { ...machine, memoryBytes: Infinity }, loaded = await loadModels(ppo.graph, machine.storage);
  const prepared = await prepareGraphs([ppo.graph], loaded, free, 1);
  using devices = Devices.open({ count: 1, threads: machine.threads });
  return checkedMemory(prepared, loaded, scratchOf(devices.all[0]!, prepared), free).rows;
}

if (import.meta.main) {
  const rows = await table(), before = status("VmRSS");
  await run(ppo, { steps: 3, threads: THREADS, saveEvery: 1 });
  console.log(JSON.stringify({ grown: status("VmHWM") - before, rows }));
}
