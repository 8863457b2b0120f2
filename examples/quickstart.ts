/**
 * The quickstart: PPO teaches the project's own tiny model to rhyme. `deno task quickstart` builds the native library first
 * when it has to, and leaves runs/quickstart with logs, report and models.
 */
import { flags, run, z } from "../mod.ts";
import { measure } from "./couplets/measures.ts";
import ppo from "./ppo.ts";

const OUT = "runs/quickstart";
const o = flags({
  out: z.string().default(OUT).describe("output folder"),
  resume: z.boolean().default(false).describe("go on from the newest checkpoint of the output folder"),
});
// A quickstart is tried again and again: its own earlier output makes room, anybody else's stays.
if (o.out === OUT && !o.resume) await Deno.remove(OUT, { recursive: true }).catch(() => {});

const { out, before, after } = await run(ppo, { steps: 80, saveEvery: 20, ...o });
if (before && after) {
  const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
  const [b, a] = [measure(before.samples), measure(after.samples)];
  console.log(`Rhyming, well-formed couplets: ${percent(b.couplets)} before, ${percent(a.couplets)} after.`);
  console.log(`Open ${out}/report.html in a browser for curves and samples.`);
}
