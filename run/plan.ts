/** A workflow's plan without running it: for people to look at before a machine is spent on it. */
import type { Workflow } from "../dsl/workflow.ts";
import { ganttSvg } from "../engine/gantt_svg.ts";
import { tableHtml } from "../engine/html.ts";
import { planTable } from "../engine/report_tables.ts";
import { shortBytes, table } from "../engine/table.ts";
import type { ExecutionPlan } from "../ir/plan.ts";
import type { MemoryRow } from "../planner/memory.ts";
import { printPlan } from "../planner/plan_file.ts";
import { memoryOf } from "./memory.ts";
import { loadModels } from "./models.ts";
import type { RunOptions } from "./options.ts";
import { planRows } from "./plan_chart.ts";
import { type PreparedGraph, prepareGraphs } from "./prepare.ts";
import { resolveOptions } from "./resolve.ts";

/** Where and how every call of a workflow would run. A notebook shows tables and who works when. */
export class Planned {
  constructor(
    readonly plan: ExecutionPlan,
    /** Every byte that the run would allocate. */
    readonly memory: readonly MemoryRow[],
    private readonly prepared: PreparedGraph,
  ) {}

  /** The plan as YAML, for `--plan`. */
  get yaml(): string {
    return printPlan(this.plan);
  }

  #tables() {
    const perDevice = Map.groupBy(
      this.memory,
      (row) => row.where === "host" ? "host" : `device ${row.device}`,
    );
    const rows = [...perDevice].map(([where, all]) => [
      where,
      shortBytes(all.reduce((n, row) => n + row.bytes, 0)),
      all.toSorted((a, b) => b.bytes - a.bytes).slice(0, 3).map((r) => `${r.name} ${shortBytes(r.bytes)}`)
        .join(", "),
    ]);
    const columns = [{ title: "where" }, { title: "memory", align: "right" as const }, {
      title: "most of it",
    }];
    return [planTable(this.prepared.graph, this.plan), { title: "Memory", columns, rows }];
  }

  toString(): string {
    return this.#tables().map(({ title, columns, rows }) => `${title}\n${table(columns, rows)}`).join("\n\n");
  }
  [Symbol.for("Deno.customInspect")](): string {
    return this.toString();
  }
  [Symbol.for("Jupyter.display")](): Record<string, string> {
    const chart = ganttSvg(
      planRows(this.prepared),
      "operations in one step whose sequences are as long as they may be; thin marks are reallocations",
    );
    return {
      "text/plain": this.toString(),
      "text/html": this.#tables().map((t) => tableHtml(t, { alone: true })).join("") + chart,
    };
  }
}

/**
 * Plans and compiles a workflow for a machine and allocates nothing: what `run` with the same options would do.
 *
 * @throws one line when the workflow cannot be planned so
 * @example
 * ```ts
 * import { plan, type Workflow } from "@baton/baton";
 *
 * const look = async (workflow: Workflow) =>
 *   console.log(String(await plan(workflow, { devices: "cpu:8", strategy: "dp2tp2pp2" })));
 * ```
 */
export async function plan(workflow: Workflow, options: RunOptions = {}): Promise<Planned> {
  const { machine, seed } = await resolveOptions(workflow, { steps: 1, ...options });
  const graphs = workflow.evaluation ? [workflow.graph, workflow.evaluation.graph] : [workflow.graph];
  const models = await loadModels({
    ...workflow.graph,
    models: Object.assign({}, ...graphs.map((g) => g.models)),
  }, machine.storage);
  const prepared = await prepareGraphs(graphs, models, machine, seed);
  // Kernel scratch is the machine's, which nobody has opened.
  return new Planned(prepared[0]!.plan, memoryOf(prepared, models, 0).rows, prepared[0]!);
}
