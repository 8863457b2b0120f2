/**
 * Milliseconds from the text of examples/ppo.ts to its device programs, as one JSON line. A script reads the command line of
 * its process, so this has a process of its own. Reading models and data is not counted.
 */
import "../mod.ts";
import type { Workflow } from "../mod.ts";
import { loadModels } from "../run/models.ts";
import { compileBench } from "./cases.ts";
import { median } from "./measure.ts";

const RUNS = 8;
const script = new URL("../examples/ppo.ts", import.meta.url).href;
const sizes = { sequences: 64, group: 1, longestPrompt: 32, longest: 48, longestResponse: 16 };
const runs: { readonly trace: number; readonly plan: number }[] = [];
for (let i = 0; i < RUNS; i++) {
  const start = performance.now();
  // A query makes the module a new one, so that it is read and traced again.
  const { default: ppo } = await import(`${script}?${i}`) as { default: Workflow };
  const trace = performance.now() - start,
    graphs = [ppo.graph, ...(ppo.evaluation ? [ppo.evaluation.graph] : [])];
  const configs = Object.fromEntries(
    Object.entries(await loadModels(ppo.graph)).map(([name, m]) => [name, m.config]),
  );
  const began = performance.now();
  for (const graph of graphs) compileBench(graph, configs, sizes);
  runs.push({ trace, plan: performance.now() - began });
}
const first = runs[0]!, warm = runs.slice(1);
console.log(JSON.stringify({
  // What a user waits for: the code has never run before.
  first_ms: first.trace + first.plan,
  first_trace_ms: first.trace,
  median_ms: median(warm.map((r) => r.trace + r.plan)),
  trace_ms: median(warm.map((r) => r.trace)),
  plan_and_compile_ms: median(warm.map((r) => r.plan)),
  n: warm.length,
}));
