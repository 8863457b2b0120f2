/** Plans that were searched for, by the digest of everything that was asked: a second start of a run does not search again. */
import { cacheFolder } from "../engine/cache_folder.ts";
import { join, readTextOrNull, replaceFile } from "../engine/files.ts";
import { canonical, digest, fnv1a } from "../ir/digest.ts";
import type { ExecutionPlan } from "../ir/plan.ts";
import { literal, number, object, type Shape, string } from "../ir/shape_of.ts";
import { parsePlanFile } from "../planner/plan_file.ts";
import type { CostInput } from "../planner/call_cost.ts";
import { predict } from "../planner/predict.ts";
import type { SearchOptions } from "../planner/search.ts";

/** Raised when the search finds other plans; what the cost model thinks of a plan is worked out anew at every use. */
const SEARCH = 2;
/** More memory than this many times what a plan was made for may hold a better one. */
const MORE_MEMORY = 1.5;
/** Share by which seconds may differ from the entry's where the cost model has not changed. */
const SAME = 1e-6;

/** An answer of the search. */
export interface CachedPlan {
  readonly plan: ExecutionPlan;
  readonly seconds: number;
  /** How far above the lower bound it is. */
  readonly gap: number;
}

const entryShape: Shape = object({
  version: literal(1),
  key: string,
  memoryBytes: number,
  seconds: number,
  gap: number,
  plan: object({ version: literal(1), graph: string, cluster: () => {}, assignments: () => {} }),
});

/**
 * A name of the question: graph, models, devices, profile, workload, options and the search's own version. The bytes that a
 * machine has free change from start to start and are looked at apart.
 */
export function questionKey({ graph, cluster, ...rest }: CostInput, options: SearchOptions): string {
  const { memoryBytes: _, ...devices } = cluster;
  return fnv1a(canonical([SEARCH, digest(graph), devices, rest, options]));
}

/** The folder of plans. */
export const planFolder = (): string => join(cacheFolder(), "plans");

/**
 * A plan that was found before and still holds: it fits the memory of now, and the cost model says the same of it as then.
 *
 * @param note told when a file is there and cannot be used
 */
export async function knownPlan(
  input: CostInput,
  options: SearchOptions,
  note: (line: string) => void,
): Promise<CachedPlan | null> {
  const key = questionKey(input, options), path = join(planFolder(), `${key}.json`);
  try {
    const text = await readTextOrNull(path);
    if (text === null) return null;
    const value: unknown = JSON.parse(text), found: string[] = [];
    entryShape(value, "entry", found);
    if (found.length) throw new TypeError(found.join("; "));
    const { plan, seconds, gap, memoryBytes, ...entry } = value as CachedPlan & {
      readonly key: string;
      readonly memoryBytes: number;
    };
    if (entry.key !== key) throw new TypeError("it answers another question");
    parsePlanFile(plan, path);
    if (input.cluster.memoryBytes > MORE_MEMORY * memoryBytes) return null;
    const { evaluation } = predict(input, plan);
    const same = Math.abs(evaluation.period / seconds - 1) <= SAME;
    return same && evaluation.overflow === 0 ? { plan, seconds, gap } : null;
  } catch (error) {
    note(`the plan in ${path} cannot be used (${(error as Error).message}): planning anew`);
    return null;
  }
}

/** Keeps an answer. A folder that cannot be written costs a search at the next start, and no run. */
export async function keepPlan(
  input: CostInput,
  options: SearchOptions,
  { plan, seconds, gap }: CachedPlan,
  note: (line: string) => void,
): Promise<void> {
  const key = questionKey(input, options), folder = planFolder(), { memoryBytes } = input.cluster;
  try {
    await Deno.mkdir(folder, { recursive: true });
    const entry = { version: 1, key, memoryBytes, seconds, gap, plan };
    // Runs that start together write files of their own; whichever is renamed last stays.
    const own = join(folder, `${key}.${Deno.pid}`);
    await replaceFile(own, `${JSON.stringify(entry)}\n`);
    await Deno.rename(own, join(folder, `${key}.json`));
  } catch (error) {
    note(`the plan cannot be kept in ${folder} (${(error as Error).message}): the next start searches again`);
  }
}
