/** Rows of the byte table that lie in the host's memory, beside what the native library holds. */
import type { DataSizes } from "../compiler/programs.ts";
import type { CallGraph } from "../ir/graph.ts";
import { keptWidth } from "../ir/groups.ts";
import type { DataSet } from "../engine/data.ts";
import type { Sample } from "../engine/sample.ts";
import { PASSING_BYTES } from "../engine/tensor_pieces.ts";
import type { MemoryRow } from "../planner/memory.ts";

/** What V8 needs for a sample and for each of its arrays beside their elements: measured, rounded up. */
const SAMPLE = 256, ARRAY = 192;
/** Bytes that an isolate takes which has imported a script: measured, rounded up. */
const WORKER = 40 * 2 ** 20;
/** Numbers per token of a step: ids, positions, and the per-token fields of an algorithm. */
const FIELDS = 8;

interface Prepared {
  readonly graph: CallGraph;
  readonly data: DataSet;
  readonly sizes: DataSizes;
}

/** @param largestModel bytes of the parameters of the largest model */
export function hostRows(graphs: readonly Prepared[], largestModel: number): MemoryRow[] {
  const { sequences, longest, longestResponse } = graphs[0]!.sizes, { calls } = graphs[0]!.graph;
  const kept = calls.reduce(
    (n, c) => n + (c.kind === "generate" ? keptWidth({ calls }, c.writes.tokens) : 0),
    0,
  );
  const rows: readonly (readonly [string, number])[] = [
    ["data", [...new Set(graphs.map((g) => g.data))].reduce((n, data) => n + dataBytes(data), 0)],
    // The next step's generation may run beside this step's training.
    ["batch", 2 * sequences * longest * 4 * FIELDS],
    ["kept tokens", 2 * sequences * longestResponse * 4 * kept],
    // Tensors pass in pieces (`engine/tensor_pieces.ts`).
    ["weights on their way to and from files", Math.min(largestModel, PASSING_BYTES)],
    ["score worker", graphs.some((g) => g.graph.calls.some((c) => c.kind === "score")) ? WORKER : 0],
  ];
  return rows.filter(([, bytes]) => bytes > 0).map(([name, bytes]) => ({ name, bytes, where: "host" }));
}

function dataBytes({ training, heldOut }: DataSet): number {
  return [training, heldOut].reduce((sum, rows) => rows.reduce((n, row) => n + sampleBytes(row), sum), 0);
}

function sampleBytes({ prompt, messages, tokens, rejected, fields }: Sample): number {
  const values = Object.values(fields), columns = values.filter((v) => typeof v === "object");
  const sequences = [tokens, rejected, ...columns];
  const arrays = [prompt?.ids, ...sequences.flatMap((t) => [t?.ids, t?.actions])];
  const texts = [prompt?.text, ...messages?.map((m) => m.content) ?? [], ...values];
  return SAMPLE + arrays.reduce((n, a) => n + (a ? ARRAY + a.byteLength : 0), 0) +
    texts.reduce<number>((n, t) => n + (typeof t === "string" ? 2 * t.length : 8), 0);
}
