/** What follows from the sizes that a script states: said once before the first step, because a run is only as good as these. */
import { printStorage, type Storage } from "../compiler/models/storage.ts";
import type { DataSizes } from "../compiler/sizes.ts";
import { shortNumber } from "../engine/table.ts";
import type { ModelFunctionCall } from "../ir/graph.ts";
import type { Assignment } from "../ir/plan.ts";
import type { MemoryRow } from "../planner/memory.ts";
import { largestRows, mebibytes, rowText, totalBytes } from "./memory.ts";
import type { PreparedGraph } from "./prepare.ts";

type Derived = Pick<PreparedGraph, "graph" | "sizes" | "plan" | "programs" | "planned"> & {
  readonly data: { readonly skipped: number };
};

/**
 * Lines for people: sequences and optimizer updates of a step, micro-batches, KV pages where memory holds not all, what numbers are
 * stored in, memory.
 */
export function derivedLines(
  { graph, sizes, plan, programs, data, planned }: Derived,
  memory: readonly MemoryRow[],
  storage: Storage,
): string[] {
  const { kind, batch } = graph.source,
    samples = kind === "prompts" ? sizes.group : 1,
    sequences = `${sizes.sequences} sequences`;
  const rows = samples > 1
    ? `${batch} prompts × ${samples} samples = ${sequences}`
    : kind === "pairs"
    ? `${batch} pairs = ${sequences}`
    : `${batch} ${kind}`;
  const updates = new Map<string, number>(), bySize = new Map<string, string[]>(), pages: string[] = [];
  for (const call of graph.calls) {
    if (!("model" in call)) continue;
    if (call.kind === "train") {
      updates.set(call.model, (updates.get(call.model) ?? 0) + call.minibatches * call.epochs);
    }
    const a = plan.assignments[call.id]!, again = call.kind === "train" && a.recompute !== "nothing";
    const size = `${a.microBatchTokens} tokens${again ? `, recompute ${a.recompute}` : ""}`;
    bySize.set(size, [...bySize.get(size) ?? [], `${call.id}${times(call, a, sizes)}`]);
    const cache = programs.generate[call.id]?.cache;
    if (cache && cache.pages < cache.slots * cache.maxPages) {
      pages.push(`${call.id} ${cache.pages} of ${cache.slots * cache.maxPages}`);
    }
  }
  const list = (of: ReadonlyMap<string, number>) => [...of].map(([k, v]) => `${k} ${v}`).join(", ");
  return [
    ...planned ? [planned.line] : [],
    `each step: ${rows}, up to ${sizes.longest} tokens each, ${
      shortNumber(sizes.sequences * sizes.longest)
    } in all` +
    (updates.size ? `; optimizer updates: ${list(updates)}` : ""),
    `micro-batches: ${[...bySize].map(([size, calls]) => `${size} (${calls.join(", ")})`).join("; ")}`,
    ...data.skipped ? [`data: ${data.skipped} rows are longer than the models' context and left out`] : [],
    ...pages.length
      ? [`kv pages: ${pages.join(", ")}, all that memory holds: some sequences wait for others`]
      : [],
    `precision: ${printStorage(storage)}`,
    `memory: ${mebibytes(totalBytes(memory))}; most: ${largestRows(memory).map(rowText).join(", ")}`,
  ];
}

/** How many micro-batches a rank runs in a step where all sequences are as long as they may be; a generation's prefills are as they come. */
function times(
  call: ModelFunctionCall,
  { strategy, microBatchTokens }: Assignment,
  sizes: DataSizes,
): string {
  if (call.kind === "generate") return "";
  const parts = call.kind === "train" ? call.minibatches : 1,
    each = Math.max(1, Math.floor(microBatchTokens / sizes.longest));
  const count = Math.ceil(Math.ceil(sizes.sequences / parts / strategy.dp) / each);
  return ` × ${count * (call.kind === "train" ? parts * call.epochs : 1)}`;
}
