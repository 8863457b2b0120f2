/** Options of a run with everything filled in: flags of the command line win over the script's options, those over YAML. */
import { oneOf, refuse, whole } from "../dsl/options.ts";
import type { Workflow } from "../dsl/workflow.ts";
import { loadConfig } from "../engine/config.ts";
import { inKernel } from "./kernel.ts";
import { clusterSaid, type Machine, machineFaults, machineOf } from "./machine.ts";
import type { RunOptions } from "./options.ts";

export interface Resolved {
  readonly steps: number;
  readonly seed: number;
  readonly out: string;
  readonly saveEvery: number;
  readonly keep: number;
  readonly resume: boolean;
  readonly quiet: boolean;
  readonly logSamples: number;
  readonly machine: Machine;
  /** Plans again when lengths or times differ from what was planned with. */
  readonly replan: boolean;
  /** Module of the script that exports the workflow, for workers; null in a notebook. */
  readonly script: string | null;
  readonly scoreSeconds: number;
  readonly saveDtype: "F32" | "BF16";
  readonly saveLora: "merged" | "adapter";
  readonly note: (line: string) => void;
}

export async function resolveOptions(workflow: Workflow, o: RunOptions): Promise<Resolved> {
  const config = await loadConfig(o.config), steps = o.steps ?? config.run.steps;
  if (steps === undefined || !(Number.isInteger(steps) && steps > 0)) {
    throw new RangeError(
      `Cannot run ${workflow.name}: ${
        steps === undefined ? "nobody said how many steps" : `steps is ${steps}`
      }, ` +
        `give a whole number above 0 with --steps, run(workflow, { steps }) or run.steps in YAML`,
    );
  }
  const cluster = await clusterSaid(o, config);
  refuse(`run ${workflow.name}`, [
    o.seed !== undefined && whole("seed", o.seed),
    o.saveEvery !== undefined && whole("saveEvery", o.saveEvery),
    ...machineFaults(o, config, cluster),
    o.saveDtype !== undefined && oneOf("saveDtype", o.saveDtype, ["f32", "bf16"]),
    o.saveLora !== undefined && oneOf("saveLora", o.saveLora, ["merged", "adapter"]),
  ]);
  const machine = await machineOf(o, config, cluster);
  return {
    steps,
    seed: o.seed ?? config.run.seed,
    out: o.out ?? config.run.out ?? `runs/${workflow.name}`,
    saveEvery: o.saveEvery ?? config.run.saveEvery,
    keep: config.run.keep,
    resume: o.resume ?? false,
    quiet: o.quiet ?? false,
    logSamples: config.run.logSamples,
    machine,
    replan: o.replan ?? config.plan.replan,
    script: o.script ?? mainScript(),
    scoreSeconds: config.score.deadlineSeconds,
    saveDtype: (o.saveDtype ?? machine.storage?.weights) === "bf16" ? "BF16" : "F32",
    saveLora: o.saveLora ?? "merged",
    // A notebook shows stderr as if something were wrong.
    note: o.quiet ? () => {} : inKernel() ? (line) => console.log(line) : (line) => console.error(line),
  };
}

/** A notebook's main module is no file that could be imported again. */
export const mainScript = (): string | null => {
  const main = Deno.mainModule, ours = new URL("../cli/", import.meta.url).href;
  return /\.(ts|js|mts|mjs|tsx)$/.test(main) && !main.includes("$deno$") && !main.startsWith(ours)
    ? main
    : null;
};
