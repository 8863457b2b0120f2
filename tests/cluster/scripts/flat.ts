/** Steps under a plan with reallocation, offload and pipelines; prints how much resident memory 200 of them took. Needs --expose-gc. */
import { emptyBatch, openPpo, planOf, ppoWorkflow } from "../ppo.ts";

const PLAN = planOf(4, {
  "actor.generate": { devices: "0-3", dp: 2, pp: 2 },
  "ref.infer": { devices: "2-3", tp: 2, offload: true },
  "critic.infer": { devices: "0-1", dp: 2 },
  "actor.train": { devices: "0-1", tp: 2 },
  "critic.train": { devices: "2-3", dp: 2, zero: 1 },
});
const WARM = 300, STEPS = 200;

const { stage, close } = await openPpo(ppoWorkflow(), PLAN);
const resident = () => {
  (globalThis as unknown as { gc: () => void }).gc();
  return Deno.memoryUsage().rss;
};
for (let step = 0; step < WARM; step++) await stage.step(step, emptyBatch());
const before = resident();
for (let step = 0; step < STEPS; step++) await stage.step(WARM + step, emptyBatch());
console.log(JSON.stringify({ grown: resident() - before }));
close();
