/**
 * The quickstart: PPO teaches the project's own tiny model to rhyme. `deno task quickstart` builds the native library first
 * when it has to, and leaves runs/quickstart with logs, report and models.
 */
import { run } from "../mod.ts";
import { measure } from "./couplets/measures.ts";
import ppo from "./ppo.ts";

const out = "runs/quickstart";
// A quickstart is tried again and again: its own earlier output makes room.
await Deno.remove(out, { recursive: true }).catch(() => {});

const { before, after } = await run(ppo, { steps: 60, saveEvery: 20, out });
if (before && after) {
  const percent = (share: number) => `${(100 * share).toFixed(0)} %`;
  const [b, a] = [measure(before.samples), measure(after.samples)];
  console.log(`Rhyming, well-formed couplets: ${percent(b.couplets)} before, ${percent(a.couplets)} after.`);
  console.log(`Open ${out}/report.html in a browser for curves and samples.`);
}
