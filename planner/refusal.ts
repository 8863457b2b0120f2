/** What would make a workflow fit that does not: the cheapest change, tried and not guessed. */
import type { CostInput } from "./call_cost.ts";
import { search, type SearchOptions, type SearchResult } from "./search.ts";
import { fullLengths } from "./workload.ts";

/** A change with which there is a plan. */
export interface Change {
  /** "on 16 devices", "with sequences of 1024 tokens". */
  readonly text: string;
  readonly result: SearchResult;
}

export interface Refusal {
  /** Call that needs most, or null when each fits alone and not all together. */
  readonly call: string | null;
  /** Bytes that are missing on the fullest device of the smallest plan that was seen. */
  readonly missing: number;
  readonly changes: readonly Change[];
}

/** Only whether there is a plan is asked. */
const QUICK: SearchOptions = { steps: 60, chains: 1, microBatches: 1, exhaustive: 0 };
/** Times as many devices, or as small batches, that are tried. */
const TIMES = [2, 4, 8, 16];

/**
 * Why no plan fits, and what would.
 *
 * @param o.fixed there can be no more devices: smaller batches are tried instead
 */
export function refusalOf(
  input: CostInput,
  result: SearchResult,
  { fixed = false }: { readonly fixed?: boolean } = {},
): Refusal {
  const { memoryBytes } = input.cluster;
  const alone = result.units.map((unit, i) => ({
    unit,
    bytes: result.lists[i]!.length ? 0 : result.candidates.smallest(unit).bytes,
  }))
    .reduce((a, b) => b.bytes > a.bytes ? b : a);
  const missing = alone.bytes > 0 ? alone.bytes - memoryBytes : result.closest;
  return { call: alone.bytes > 0 ? alone.unit.id : null, missing, changes: changesOf(input, fixed) };
}

function changesOf(input: CostInput, fixed: boolean): Change[] {
  const { cluster, workload } = input, { sizes } = workload, changes: Change[] = [];
  const attempt = (text: string, changed: CostInput): boolean => {
    const result = search(changed, QUICK);
    if (result.best) changes.push({ text, result });
    return result.best !== null;
  };
  const shorter = Math.floor(sizes.longest / 2),
    response = Math.min(sizes.longestResponse, Math.floor(shorter / 2));
  const half = {
    ...sizes,
    longest: shorter,
    longestResponse: response,
    longestPrompt: Math.min(sizes.longestPrompt, shorter - response),
  };
  attempt(`with sequences of ${shorter} tokens`, {
    ...input,
    workload: fullLengths(half, workload.hostSeconds),
  });
  const { batch } = input.graph.source;
  for (const times of fixed ? TIMES : []) {
    if (batch % times > 0) break;
    const fewer = { ...workload, sizes: { ...sizes, sequences: sizes.sequences / times } };
    if (attempt(`with a batch of ${batch / times}`, { ...input, workload: fewer })) break;
  }
  for (const times of fixed ? [] : TIMES) {
    const devices = times * cluster.nodes * cluster.devicesPerNode;
    if (
      attempt(`on ${devices} devices`, { ...input, cluster: { ...cluster, nodes: times * cluster.nodes } })
    ) break;
  }
  return changes;
}

/** One line for people. */
export function refusalText(name: string, input: CostInput, { call, missing, changes }: Refusal): string {
  const { nodes, devicesPerNode } = input.cluster, short = bytes(missing);
  const state = call
    ? `${call} alone lacks ${short} on every device`
    : `every call fits alone, and together they lack ${short} on the fullest device`;
  const advice = changes.length
    ? `it fits ${changes.map((c) => c.text).join(", or ")}`
    : "use more devices or a smaller model";
  return `Cannot plan ${name} on ${nodes * devicesPerNode} devices: ${state}, ${advice}`;
}

function bytes(n: number): string {
  const unit = Math.min(3, Math.max(1, Math.floor(Math.log2(Math.max(1, n)) / 10)));
  return `${(n / 1024 ** unit).toFixed(1)} ${["", "KiB", "MiB", "GiB"][unit]}`;
}
