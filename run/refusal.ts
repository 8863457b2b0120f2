/** What would make a run fit that does not: changes of its plan, then of its step, tried and not guessed. */
import { RECOMPUTE } from "../ir/plan.ts";
import { type FileCall, parsePlanFile, type PlanFile } from "../planner/plan_file.ts";
import { costInput } from "./assumptions.ts";
import { readProfile } from "./cluster.ts";
import type { Machine } from "./machine.ts";
import { fitPages, holdsAll, memoryOf } from "./memory.ts";
import type { LoadedModel } from "./models.ts";
import { placeGraphs, type PreparedGraph } from "./prepare.ts";
import { predictionOf } from "./prediction.ts";
import type { ReadGraph } from "./read_graph.ts";

/** What of every call is changed. */
type Change = Pick<FileCall, "microBatchTokens" | "recompute">;

interface Attempt {
  readonly text: string;
  readonly file: PlanFile;
  readonly read: readonly ReadGraph[];
}

interface Fits {
  readonly text: string;
  /** Predicted, of a step. */
  readonly seconds: number;
}

/** Whether an error says that a plan is wrong or too large, and not that a program is. */
export const isRefusal = (error: unknown): error is Error =>
  (error instanceof RangeError || error instanceof TypeError) && error.message.startsWith("Cannot ");

/** A batch is halved so often at most. */
const HALVES = 6;

/**
 * The change that costs least time under the cost model, of those after which everything fits: "it fits with recompute: layers". Null
 * when none of them is enough.
 */
export async function cheapestChange(
  prepared: readonly PreparedGraph[],
  models: Readonly<Record<string, LoadedModel>>,
  scratch: number,
  machine: Machine,
): Promise<string | null> {
  const { strategy: _, planFile: __, microBatchTokens: ___, recompute: ____, assumptions, ...bare } = machine;
  const profile = assumptions?.profile ?? await readProfile("cpu", "a run");
  const assumed = assumptions ?? { profile, links: profile.links, hostSeconds: {} };
  const attempt = async ({ text, file, read }: Attempt): Promise<Fits | null> => {
    try {
      const own = { ...bare, planFile: file }, placed = await placeGraphs(read, models, own);
      const fitted = fitPages(placed, models, scratch, own);
      if (!holdsAll(own, memoryOf(fitted, models, scratch).rows)) return null;
      const { graph, plan, sizes, data } = placed[0]!;
      return {
        text,
        seconds: predictionOf(costInput(graph, models, plan.cluster, sizes, data, assumed), plan).seconds,
      };
    } catch (error) {
      // Micro-batches too small for what a call keeps together, ranks without a sequence: no change for this run.
      if (isRefusal(error)) return null;
      throw error;
    }
  };
  const found: Fits[] = [];
  for (const a of planChanges(prepared)) {
    const enough = await attempt(a);
    if (enough) found.push(enough);
  }
  if (found.length) return found.reduce((a, b) => b.seconds < a.seconds ? b : a).text;
  for (const a of batches(prepared)) if (await attempt(a)) return a.text;
  return null;
}

/** The plan as a file, with something of every call that it concerns changed. */
function changed(prepared: readonly PreparedGraph[], change: Change): PlanFile {
  const { plan, graph } = prepared[0]!,
    { graph: _, ...file } = parsePlanFile(JSON.parse(JSON.stringify(plan)), "this plan");
  const calls = Object.entries(file.calls).map(([id, call]) => {
    const { recompute, ...rest } = change, trains = graph.calls.find((c) => c.id === id)?.kind === "train";
    return [id, { ...call, ...rest, ...trains && recompute && { recompute } }];
  });
  return { ...file, calls: Object.fromEntries(calls) };
}

/** Smaller micro-batches, recomputation, and both. */
function* planChanges(prepared: readonly PreparedGraph[]): Generator<Attempt> {
  const { plan, sizes, graph } = prepared[0]!, all = Object.values(plan.assignments);
  const most = Math.max(...all.map((a) => a.microBatchTokens)), tokens: (number | undefined)[] = [undefined];
  for (let n = most >> 1; n >= sizes.longest; n >>= 1) tokens.push(n);
  const trains = graph.calls.some((c) => c.kind === "train");
  for (const recompute of trains ? [undefined, ...RECOMPUTE.slice(1)] : [undefined]) {
    for (const microBatchTokens of tokens) {
      if (!recompute && !microBatchTokens) continue;
      const change = { ...microBatchTokens && { microBatchTokens }, ...recompute && { recompute } };
      const text = Object.entries(change).map(([key, value]) => `${key}: ${value}`).join(" and ");
      yield { text: `it fits with ${text}`, file: changed(prepared, change), read: prepared };
    }
  }
}

/** Smaller batches, with all that a plan can do. */
function* batches(prepared: readonly PreparedGraph[]): Generator<Attempt> {
  const { graph: { source }, sizes } = prepared[0]!;
  const change = { microBatchTokens: sizes.group * sizes.longest, recompute: "layers" as const };
  for (let i = 1, batch = source.batch >> 1; i <= HALVES && batch > 0; i++, batch >>= 1) {
    const [main, ...others] = prepared as readonly ReadGraph[] as [ReadGraph, ...ReadGraph[]];
    const smaller = {
      ...main,
      graph: { ...main.graph, source: { ...source, batch } },
      sizes: { ...sizes, sequences: Math.ceil(sizes.sequences * batch / source.batch) },
    };
    const text =
      `it fits with a batch of ${batch}, microBatchTokens: ${change.microBatchTokens} and recompute: layers`;
    yield { text, file: changed(prepared, change), read: [smaller, ...others] };
  }
}
