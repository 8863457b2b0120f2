/**
 * The first thing to run where a GPU is at hand, a few minutes: `deno run -A bench/gpu_probe.ts [--out FILE] [PART …]`. Each part is a
 * process of its own, so one that fails or hangs takes no other with it; its lines of JSON come as they are found, and a short table
 * at the end. What parts do is in `gpu_probe_parts.ts`.
 */
import { PROBE } from "./gpu_parts.ts";
import { finish, type Outcome, runPart, summary } from "./parts.ts";

const at = Deno.args.indexOf("--out"), file = at >= 0 ? Deno.args[at + 1]! : "build/gpu_probe.json";
const names = Deno.args.filter((_, i) => at < 0 || (i !== at && i !== at + 1));
const outcomes: Outcome[] = [];
for (const part of PROBE) {
  if (names.length === 0 || names.includes(part.command.at(-1)!)) outcomes.push(await runPart(part));
}
await finish(outcomes, file, summary);
