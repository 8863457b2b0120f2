/** Plans as people write them: one line per call with its devices, dp, tp and pp. The text is YAML or JSON. */
import { devicesOf } from "../ir/mesh.ts";
import { type DeviceRange, parseRange } from "../ir/notation.ts";
import { PLAN } from "../ir/json.ts";
import { boolean, count, leaf, literal, object, record } from "../ir/shape_of.ts";
import {
  type Assignment,
  type Cluster,
  type DeviceMesh,
  type ExecutionPlan,
  type ParallelStrategy,
  RECOMPUTE,
} from "../ir/plan.ts";

/** What may be said for all calls at once, or for one of them. */
export interface FileSettings {
  readonly microBatchTokens?: number;
  readonly recompute?: Assignment["recompute"];
  /** Of calls that train. */
  readonly zero?: Assignment["zero"];
}

/** A call as a plan file has it. */
export interface FileCall extends FileSettings {
  readonly devices: DeviceRange | DeviceMesh;
  readonly strategy: ParallelStrategy;
  readonly offload?: boolean;
}

/** A plan file whose form was checked; whether it fits a graph and a machine is another question. */
export interface PlanFile {
  /** Where it came from, for messages. */
  readonly origin: string;
  /** Digest of the graph that it was made for. */
  readonly graph?: string;
  readonly cluster?: Pick<Cluster, "nodes" | "devicesPerNode">;
  readonly defaults: FileSettings;
  readonly calls: Readonly<Record<string, FileCall>>;
  /** Lines of the calls, where they are known. */
  readonly lines?: Readonly<Record<string, number>>;
}

/** A sentence about a call with the line that the call has in the file: "line 7: actor.train has …". */
export function located(sentence: string, lines: PlanFile["lines"] = {}): string {
  const call =
    Object.keys(lines).filter((id) => sentence.startsWith(id) || sentence.startsWith(`"${id}"`)).sort((
      a,
      b,
    ) => b.length - a.length)[0];
  return call === undefined ? sentence : `line ${lines[call]}: ${sentence}`;
}

const positive = leaf("a whole number above 0", (v) => Number.isInteger(v) && (v as number) > 0);
const settings = {
  microBatchTokens: positive,
  recompute: literal(...RECOMPUTE),
  zero: literal(0, 1),
};
const READABLE = object({
  calls: record(object({
    devices: leaf(
      "a device or a range of them, as 3 or 0-7",
      (v) => ["string", "number"].includes(typeof v) && typeof parseRange(`${v}`) === "object",
    ),
  }, { dp: positive, tp: positive, pp: positive, offload: boolean, ...settings })),
}, {
  graph: leaf('the digest of a graph in quotes, "3f2a…"', (v) => typeof v === "string"),
  cluster: object({ nodes: count, devicesPerNode: count }),
  defaults: object({}, settings),
});

/** What {@link READABLE} lets through. */
interface Readable {
  readonly graph?: string;
  readonly cluster?: Pick<Cluster, "nodes" | "devicesPerNode">;
  readonly defaults?: FileSettings;
  readonly calls: Readonly<
    Record<
      string,
      FileSettings & Partial<ParallelStrategy> & {
        readonly devices: string | number;
        readonly offload?: boolean;
      }
    >
  >;
}

/**
 * Checks the form of a plan: the readable one, or a whole {@link ExecutionPlan}.
 *
 * @param value what the YAML or JSON text says
 * @param origin file, for messages
 * @param lines of its calls, where they are known
 * @throws TypeError that lists everything that is wrong, each with its path
 */
export function parsePlanFile(value: unknown, origin: string, lines?: PlanFile["lines"]): PlanFile {
  const whole = typeof value === "object" && value !== null && "assignments" in value, found: string[] = [];
  (whole ? PLAN : READABLE)(value, "plan", found);
  if (found.length) {
    const all = found.map((f) => {
      const inner = f.replace(/^plan\.(calls|assignments)\./, ""), at = located(inner, lines);
      return at === inner ? f : at;
    });
    throw new TypeError(`Cannot use ${origin}: ${all.join("; ")}, see docs/parallelism.md for its form`);
  }
  const read = { origin, ...lines && { lines } };
  return {
    ...read,
    ...whole ? fromPlan(value as unknown as ExecutionPlan) : fromReadable(value as Readable),
  };
}

function fromPlan({ graph, cluster: { nodes, devicesPerNode }, assignments }: ExecutionPlan) {
  const calls = Object.entries(assignments).map(([id, { mesh, ...rest }]): [string, FileCall] => [
    id,
    { devices: mesh, ...rest },
  ]);
  return { graph, cluster: { nodes, devicesPerNode }, defaults: {}, calls: Object.fromEntries(calls) };
}

function fromReadable({ calls, defaults = {}, ...rest }: Readable) {
  const all = Object.entries(calls).map(([id, call]): [string, FileCall] => {
    const { devices, dp = 1, tp = 1, pp = 1, ...settings } = call;
    return [id, { devices: parseRange(`${devices}`) as DeviceRange, strategy: { dp, tp, pp }, ...settings }];
  });
  return { ...rest, defaults, calls: Object.fromEntries(all) };
}

/** A plan that passed its check as readable YAML, which {@link parsePlanFile} and a completion read back equal. */
export function printPlan({ graph, cluster, assignments }: ExecutionPlan): string {
  const all = Object.entries(assignments);
  const usual = {
    microBatchTokens: mostFrequent(all.map(([, a]) => a.microBatchTokens)),
    recompute: mostFrequent(all.map(([, a]) => a.recompute)),
  };
  const lines = all.map(([id, a]) => {
    const devices = devicesOf(a.mesh, cluster), [first, last] = [devices[0]!, devices.at(-1)!];
    const said = Object.entries({ devices: first === last ? first : `${first}-${last}` }).concat(
      Object.entries(a.strategy).filter(([, n]) => n > 1),
      Object.entries(usual).flatMap(([key, value]) => {
        const own = a[key as keyof typeof usual];
        return own === value ? [] : [[key, own] as [string, string | number]];
      }),
      a.zero ? [["zero", 1]] : [],
      a.offload ? [["offload", "true"]] : [],
    );
    return `  ${key(id)}: ${flow(said)}`;
  });
  const { nodes, devicesPerNode } = cluster;
  return [
    `graph: "${graph}"`,
    `cluster: ${flow(Object.entries({ nodes, devicesPerNode }))}`,
    `defaults: ${flow(Object.entries(usual))}`,
    "calls:",
    ...lines,
    "",
  ].join("\n");
}

const flow = (entries: readonly (readonly [string, string | number])[]): string =>
  `{ ${entries.map(([k, v]) => `${k}: ${v}`).join(", ")} }`;

/** Ids of other forms could be read as numbers, comments or the like. */
const key = (id: string): string => /^[A-Za-z]\w*(\.[A-Za-z]\w*)+$/.test(id) ? id : JSON.stringify(id);

/** The value that most have; of several the first. */
function mostFrequent<T>(values: readonly T[]): T {
  const counts = new Map<T, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].reduce((best, next) => next[1] > best[1] ? next : best)[0];
}
