/**
 * `deno task bench:gpu [--out FILE] [--only REGEX]`: operations and whole steps at the shapes of real models in bf16, each beside its
 * floor, and PyTorch with transformers on the same shapes where the Python of BATON_PEER_PYTHON (python3 by default) has them. Every part is
 * a process of its own with a time limit; a short table comes last.
 */
import { parseArgs } from "node:util";
import { benchParts, hasTorch } from "./gpu_parts.ts";
import { benchText, finish, type Outcome, runPart } from "./parts.ts";

const { values: flags } = parseArgs({
  options: {
    out: { type: "string", default: "build/gpu_bench.json" },
    only: { type: "string", default: "" },
    small: { type: "boolean", default: false },
  },
});
const python = Deno.env.get("BATON_PEER_PYTHON") ?? "python3", torch = await hasTorch(python);
const wanted = new RegExp(flags.only), outcomes: Outcome[] = [];
for (const part of benchParts({ small: flags.small, python: torch ? python : null })) {
  if (wanted.test(part.name)) outcomes.push(await runPart(part));
}
if (!torch) console.log(`no torch and transformers in ${python}: nothing to compare with`);
await finish(outcomes, flags.out, (o) => benchText(o, outcomes));
