/** Runs examples/ppo.ts up to the end of its first step and prints the time of day then, in milliseconds. */
import ppo from "../examples/ppo.ts";
import { steps, type Workflow } from "../mod.ts";

const threads = Number(Deno.args[Deno.args.indexOf("--threads") + 1]), out = await Deno.makeTempDir();
// The evaluation before the first step belongs to the run, not to the start.
const { evaluation: _, ...training } = ppo as Workflow;
for await (const { step } of steps(training as Workflow, { steps: 2, out, threads, quiet: true })) {
  console.log(Date.now());
  if (step === 1) break;
}
await Deno.remove(out, { recursive: true });
