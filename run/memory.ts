/** The byte table of a run, the KV pages that fit into what is left, and the refusal of a run that does not fit. */
import { parameterBytes } from "../compiler/models/transformer.ts";
import type { Programs } from "../compiler/programs.ts";
import type { ModelFunctionCall } from "../ir/graph.ts";
import type { Program } from "../ir/program.ts";
import { callBytes, type MemoryRow, memoryTable } from "../planner/memory.ts";
import { type Cache, choosePages } from "../planner/pages.ts";
import { hostRows } from "./host_memory.ts";
import { engineModel, type LoadedModel } from "./models.ts";
import type { Machine, PreparedGraph } from "./prepare.ts";

/** Rows that the largest rotary table of a model's programs has. */
export function rotaryPositions(graphs: readonly PreparedGraph[], model: LoadedModel): number {
  const bytes = graphs.flatMap(({ graph, programs }) =>
    graph.calls.flatMap((c) =>
      "model" in c && c.model === model.name
        ? programsOf(programs, c).map((p) => p.segmentBytes.constants)
        : []
    )
  );
  return Math.max(0, ...bytes) / (4 * model.config.headDim);
}

function programsOf(programs: Programs, call: ModelFunctionCall): readonly Program[] {
  if (call.kind === "generate") {
    return [programs.generate[call.id]!.prefill, programs.generate[call.id]!.decode];
  }
  return call.kind === "infer" ? [programs.infer[call.id]!] : [programs.train[call.id]!.train];
}

/** Every byte of a run; throws when the device cannot hold it. */
export function byteTable(
  graphs: readonly PreparedGraph[],
  models: Readonly<Record<string, LoadedModel>>,
  scratch: number,
  machine: Machine,
): MemoryRow[] {
  const rows = rowsOf(graphs, models, scratch);
  refuseTooLarge(
    `run ${graphs[0]!.graph.name} on this machine`,
    rows,
    machine.memoryBytes,
    "lower the batch, maxNewTokens or microBatchTokens, or set recompute: layers",
  );
  return rows;
}

function rowsOf(
  graphs: readonly PreparedGraph[],
  models: Readonly<Record<string, LoadedModel>>,
  scratch: number,
): MemoryRow[] {
  const memory = Object.fromEntries(
    Object.entries(models).map(([name, m]) => {
      const e = engineModel(m, rotaryPositions(graphs, m));
      return [name, {
        parameters: e.parameters,
        trained: m.spec.optimizer !== null,
        constants: e.constants.byteLength,
      }];
    }),
  );
  const largest = Math.max(...Object.values(memory).map((m) => parameterBytes(m.parameters)));
  return memoryTable(graphs.map((g) => g.programs), memory, { scratch, host: hostRows(graphs, largest) });
}

/**
 * The graphs with as many KV pages as memory has room for: all that their slots can use where possible, at least one sequence
 * of maximum length. Fewer pages cost time, for sequences wait and are prefilled again; they change no token.
 */
export function fitPages<G extends readonly PreparedGraph[]>(
  graphs: G,
  models: Readonly<Record<string, LoadedModel>>,
  scratch: number,
  machine: Machine,
): G {
  const free = machine.memoryBytes - totalBytes(rowsOf(graphs, models, scratch));
  if (free >= 0) return graphs;
  const caches = new Map<string, Cache>();
  for (const { programs } of graphs) {
    for (const [id, { cache, decode }] of Object.entries(programs.generate)) {
      const other = caches.get(id);
      caches.set(id, {
        slots: Math.max(cache.slots, other?.slots ?? 0),
        maxPages: Math.max(cache.maxPages, other?.maxPages ?? 0),
        bytesPerPage: decode.segmentBytes.kv / cache.pages,
      });
    }
  }
  const kv = Object.entries(callBytes(graphs.map((g) => g.programs)))
    .reduce((n, [name, bytes]) => n + (name.endsWith(" kv") ? bytes : 0), 0);
  const pages = choosePages([...caches.values()], free + kv), ids = [...caches.keys()];
  return graphs.map((g) => {
    const own = Object.entries(g.programs.generate).map(([id, { cache }]): [string, number] => [
      id,
      Math.min(cache.pages, pages[ids.indexOf(id)]!),
    ]);
    return { ...g, programs: g.withPages(Object.fromEntries(own)) };
  }) as readonly PreparedGraph[] as G;
}

export const totalBytes = (rows: readonly MemoryRow[]): number => rows.reduce((n, row) => n + row.bytes, 0);

/** @throws RangeError that says what needs most when the rows are more than there is */
export function refuseTooLarge(
  action: string,
  rows: readonly MemoryRow[],
  memoryBytes: number,
  advice: string,
): void {
  const total = totalBytes(rows);
  if (total <= memoryBytes) return;
  const most = largestRows(rows).map((r) => `${r.name} ${mebibytes(r.bytes)}`).join(", ");
  throw new RangeError(
    `Cannot ${action}: it needs ${mebibytes(total)} and ${
      mebibytes(memoryBytes)
    } are free (largest: ${most}), ${advice}`,
  );
}

export const largestRows = (rows: readonly MemoryRow[]): MemoryRow[] =>
  rows.toSorted((a, b) => b.bytes - a.bytes).slice(0, 3);

export const mebibytes = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;
