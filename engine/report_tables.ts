/** Tables of the report about the plan: where every call runs, and what moving its parameters there took. */
import { printDevices } from "../ir/mesh.ts";
import { type CallGraph, isHostCall } from "../ir/graph.ts";
import type { ExecutionPlan, Replica } from "../ir/plan.ts";
import type { ReportTable } from "./report.ts";
import { type Column, shortBytes, shortNumber } from "./table.ts";

const right = (title: string): Column => ({ title, align: "right" });

/** One row a call, in the order of the graph. */
export function planTable(graph: CallGraph, plan: ExecutionPlan): ReportTable {
  const rows = graph.calls.map((call) => {
    const a = plan.assignments[call.id];
    if (!a) return [call.id, isHostCall(call) ? "host" : "where its fields are", "", "", "", ""];
    const { dp, tp, pp } = a.strategy, trains = call.kind === "train";
    return [
      call.id,
      `${printDevices(a.mesh, plan.cluster)}${a.offload ? ", else host" : ""}`,
      `${dp}·${tp}·${pp}`,
      shortNumber(a.microBatchTokens),
      trains ? `${a.zero}` : "",
      trains ? a.recompute : "",
    ];
  });
  const columns = [
    { title: "call" },
    { title: "devices" },
    { title: "dp·tp·pp" },
    right("micro-batch tokens"),
    right("ZeRO"),
    { title: "recompute" },
  ];
  return { title: "Plan", columns, rows };
}

/** Time by kind of operation on all devices together, most first. */
export function operationTable(
  spent: readonly Readonly<Record<string, number>>[],
  sampled: boolean,
): ReportTable | null {
  const sums = new Map<string, number>();
  for (const one of spent) {
    for (const [kind, ns] of Object.entries(one)) {
      if (kind !== "all") sums.set(kind, (sums.get(kind) ?? 0) + ns);
    }
  }
  const total = [...sums.values()].reduce((n, ns) => n + ns, 0);
  if (total === 0) return null;
  const rows = [...sums].sort((a, b) => b[1] - a[1]).map(([kind, ns]) => [
    kind,
    shortNumber(ns / 1e9),
    `${(100 * ns / total).toFixed(1)} %`,
  ]);
  return {
    title: sampled ? "Time by operation, from one execution of many" : "Time by operation",
    columns: [{ title: "operation" }, right("seconds"), right("share")],
    rows,
  };
}

/** What one reallocation took: means over all the times that it was done. */
export interface ReallocationRow {
  readonly from: Replica;
  readonly to: Replica;
  /** Bytes that crossed from one device to another. */
  readonly bytes: number;
  /** The least that any way of doing it must move. */
  readonly minimum: number;
  readonly seconds: number;
  /** The most that one device received. */
  readonly most: number;
  /** How often it was done in the run. */
  readonly times: number;
}

/** One row a reallocation. */
export function reallocationTable(all: readonly ReallocationRow[]): ReportTable {
  const rows = all.map(({ from, to, bytes, minimum, most, seconds, times }) => [
    `${from} → ${to}`,
    shortBytes(bytes),
    shortBytes(minimum),
    shortBytes(most),
    `${shortNumber(1000 * seconds)} ms`,
    bytes > 0 && seconds > 0 ? shortNumber(bytes / seconds / 1e9) : "",
    shortNumber(times),
  ]);
  const columns = ["bytes", "at least", "most on a device", "time", "GB/s", "times"].map(right);
  return { title: "Reallocations", columns: [{ title: "replicas" }, ...columns], rows };
}
