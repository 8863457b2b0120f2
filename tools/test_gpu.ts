/**
 * `deno task test:gpu [--only REGEX]`: every check that needs a GPU, each a process of its own with a time limit, and a short table last.
 * Without a GPU it says so and ends with exit code 2. With `--emulation` those that are not too slow run on the emulated library, to see
 * that the checks themselves work.
 */
import { parseArgs } from "node:util";
import { finish, type Outcome, runPart, summary } from "../bench/parts.ts";
import { checkParts, prepareGpu } from "./gpu_run.ts";

const { values: flags } = parseArgs({
  options: {
    emulation: { type: "boolean", default: false },
    only: { type: "string", default: "" },
    out: { type: "string", default: "build/gpu_checks.json" },
  },
});
const lacking = await prepareGpu(flags.emulation);
if (lacking !== null) {
  console.error(`Cannot test the GPU: ${lacking}`);
  Deno.exit(2);
}
const wanted = new RegExp(flags.only), outcomes: Outcome[] = [];
for (const part of checkParts(flags.emulation)) {
  if (wanted.test(part.name)) outcomes.push(await runPart(part));
}
await finish(outcomes, flags.out, summary);
