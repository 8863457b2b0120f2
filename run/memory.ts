/** The byte table of a run, the KV pages that fit into what is left, and the refusal of a run that does not fit. */
import { storageOf } from "../compiler/models/storage.ts";
import { parameterBytes, parameters } from "../compiler/models/transformer.ts";
import { baseModel } from "../compiler/sharing.ts";
import { usesOf } from "../compiler/uses.ts";
import { BYTES } from "../ir/op.ts";
import type { ModelMemory } from "../planner/held.ts";
import { type MemoryPlan, memoryPlan, type MemoryRow } from "../planner/memory.ts";
import { type Cache, choosePages } from "../planner/pages.ts";
import { hostRows } from "./host_memory.ts";
import type { LoadedModel } from "./models.ts";
import type { Machine } from "./machine.ts";
import { poolsOf } from "./pools.ts";
import type { PreparedGraph } from "./prepare.ts";

type Models = Readonly<Record<string, LoadedModel>>;

/** Rows that the largest rotary table of a model's programs has. */
export function rotaryPositions(graphs: readonly PreparedGraph[], model: LoadedModel): number {
  const bytes = graphs.flatMap(({ graph, programs, plan }) =>
    graph.calls.flatMap((c) =>
      "model" in c && c.model === model.name
        ? usesOf(c, programs, plan.assignments[c.id]!.strategy).map((use) =>
          use.program.segmentBytes.constants
        )
        : []
    )
  );
  return Math.max(0, ...bytes) / (4 * model.config.headDim);
}

/** Every byte of a run; throws when the machine cannot hold it. */
export function checkedMemory(
  graphs: readonly PreparedGraph[],
  models: Models,
  scratch: number,
  machine: Machine,
): MemoryPlan {
  const plan = memoryOf(graphs, models, scratch);
  for (const { name, bytes, holds } of poolsOf(machine)) {
    refuseTooLarge(
      `run ${graphs[0]!.graph.name} on ${name}`,
      plan.rows.filter(holds),
      bytes,
      "lower the batch, maxNewTokens or microBatchTokens, or set recompute: layers",
    );
  }
  return plan;
}

/** Every byte of a run, whether the machine holds it or not. */
export function memoryOf(graphs: readonly PreparedGraph[], models: Models, scratch: number): MemoryPlan {
  const specs = Object.fromEntries(Object.entries(models).map(([name, m]) => [name, m.spec]));
  const memory = Object.fromEntries(
    Object.entries(models).map(([name, m]): [string, ModelMemory] => [name, {
      config: m.config,
      head: m.spec.head,
      trained: m.spec.optimizer !== null,
      base: baseModel(name, specs),
      constants: 4 * m.config.headDim * rotaryPositions(graphs, m),
    }]),
  );
  const largest = Math.max(
    // Files are read and written in fp32 at most, whatever the device stores.
    ...Object.values(models).map(({ config, spec }) =>
      BYTES.f32 / BYTES[storageOf(config).weights] * parameterBytes(parameters(config, spec.head))
    ),
  );
  return memoryPlan({ graphs, models: memory, scratch, host: hostRows(graphs, largest) });
}

/**
 * The graphs with as many KV pages as memory has room for: all that their slots can use where possible, at least one sequence
 * of maximum length in each rollout. Fewer pages cost time, for sequences wait and are prefilled again; they change no token.
 */
export function fitPages<G extends readonly PreparedGraph[]>(
  graphs: G,
  models: Models,
  scratch: number,
  machine: Machine,
): G {
  const fit = (all: readonly PreparedGraph[]) => holdsAll(machine, memoryOf(all, models, scratch).rows);
  if (fit(graphs)) return graphs;
  const caches = new Map<string, Cache>();
  for (const { graph, programs } of graphs) {
    for (const call of graph.calls) {
      if (call.kind !== "generate") continue;
      const { cache } = programs.generate[call.id]!, other = caches.get(call.id);
      caches.set(call.id, {
        slots: Math.max(cache.slots, other?.slots ?? 0),
        maxPages: Math.max(cache.maxPages, other?.maxPages ?? 0),
      });
    }
  }
  const ids = [...caches.keys()], all = [...caches.values()];
  const withShare = (share: number) => {
    const pages = choosePages(all, share);
    return graphs.map((g) => {
      const own = Object.entries(g.programs.generate).map(([id, { cache }]): [string, number] => [
        id,
        Math.min(cache.pages, pages[ids.indexOf(id)]!),
      ]);
      return { ...g, programs: g.withPages(Object.fromEntries(own)) };
    }) as readonly PreparedGraph[] as G;
  };
  // Caches share memory with what is not needed while they are, so how many pages fit has to be tried: by halves.
  const finest = Math.max(1, ...all.map((c) => (c.slots - 1) * c.maxPages));
  let best = withShare(0), fits = 0, tooMuch = finest;
  while (tooMuch - fits > 1) {
    const middle = (fits + tooMuch) >> 1, tried = withShare(middle / finest);
    if (fit(tried)) [best, fits] = [tried, middle];
    else tooMuch = middle;
  }
  return best;
}

/** Whether every memory of a machine holds its rows. */
export const holdsAll = (machine: Machine, rows: readonly MemoryRow[]): boolean =>
  poolsOf(machine).every(({ bytes, holds }) => totalBytes(rows.filter(holds)) <= bytes);

export const totalBytes = (rows: readonly MemoryRow[]): number => rows.reduce((n, row) => n + row.bytes, 0);

/** A run that needs more memory than there is. */
export class TooLarge extends RangeError {
  /** @param state up to what to do */
  constructor(readonly state: string, advice: string) {
    super(`${state}, ${advice}`);
    // A subclass says no more to people than that a value is out of range.
    this.name = "RangeError";
  }
}

/** @throws TooLarge that says what needs most when the rows are more than there is */
export function refuseTooLarge(
  action: string,
  rows: readonly MemoryRow[],
  memoryBytes: number,
  advice: string,
): void {
  const total = totalBytes(rows);
  if (total <= memoryBytes) return;
  const most = largestRows(rows).map(rowText).join(", ");
  throw new TooLarge(
    `Cannot ${action}: it needs ${mebibytes(total)} and ${
      mebibytes(memoryBytes)
    } are free (largest: ${most})`,
    advice,
  );
}

export const largestRows = (rows: readonly MemoryRow[]): MemoryRow[] =>
  rows.toSorted((a, b) => b.bytes - a.bytes).slice(0, 3);

/** "in turn 41 MiB (actor.generate 38 MiB)". */
export const rowText = ({ name, bytes, parts }: MemoryRow): string =>
  `${name} ${mebibytes(bytes)}${parts?.length ? ` (${parts[0]!.name} ${mebibytes(parts[0]!.bytes)})` : ""}`;

export const mebibytes = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;
