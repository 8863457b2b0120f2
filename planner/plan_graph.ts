/** The plan of a graph: what a file or a strategy says of it, or data parallelism over all devices; completed and checked. */
import type { ModelConfig } from "../compiler/models/config.ts";
import { canonical, digest } from "../ir/digest.ts";
import type { Call, CallGraph } from "../ir/graph.ts";
import { meshOf } from "../ir/notation.ts";
import type { Cluster, ExecutionPlan, ParallelStrategy } from "../ir/plan.ts";
import { checkPlanFor } from "./check_layouts.ts";
import { completePlan, type Draft, type Layout } from "./complete.ts";
import type { FileCall, PlanFile } from "./plan_file.ts";

/** A graph, and what decides where its calls run. */
export interface PlanInput extends Pick<Draft, "sizes" | "reread" | "microBatchTokens" | "recompute"> {
  readonly graph: CallGraph;
  /** By the models' names. */
  readonly configs: Readonly<Record<string, ModelConfig>>;
  readonly cluster: Cluster;
  /** One layout on all devices for all calls. */
  readonly strategy?: ParallelStrategy;
  /** A layout for every call. */
  readonly file?: PlanFile;
  /** Of an evaluation: the workflow's own graph and plan. Its calls run where they run in the workflow. */
  readonly of?: { readonly graph: CallGraph; readonly plan: ExecutionPlan };
  /** Of the workflow's own graph: calls of its evaluation, which the file may name too. */
  readonly evaluated?: readonly string[];
}

/**
 * The plan that a run follows. Whatever a file leaves out is filled in: a call that it does not name runs where the other calls
 * of its model do.
 *
 * @throws TypeError that lists everything that is wrong with it
 */
export function planGraph(input: PlanInput): ExecutionPlan {
  const { graph, configs, cluster, sizes, file, of } = input, now = digest(graph);
  const plan = completePlan({
    ...input,
    digest: of ? now : file?.graph ?? now,
    layouts: file ? fileLayouts(file, input) : uniformLayouts(input),
    ...file?.defaults.microBatchTokens && { microBatchTokens: file.defaults.microBatchTokens },
    ...file?.defaults.recompute && { recompute: file.defaults.recompute },
  });
  checkPlanFor(plan, graph, configs, sizes, {
    idle: of !== undefined,
    ...file && { file },
    also: file?.cluster ? clusterProblems(file.cluster, cluster) : [],
  });
  return plan;
}

/** Every call on all devices. */
function uniformLayouts({ graph, cluster, sizes, strategy, of }: PlanInput): Record<string, Layout> {
  const devices = cluster.nodes * cluster.devicesPerNode;
  if (!strategy && !of && sizes.sequences < devices) {
    throw new RangeError(
      `Cannot plan ${graph.name}: a step has ${sizes.sequences} sequences for ${devices} devices, ` +
        `raise the batch or say with --strategy or --plan how else to share them`,
    );
  }
  const layout = {
    mesh: { node: 0, nodes: cluster.nodes, device: 0, devices: cluster.devicesPerNode },
    strategy: strategy ?? { dp: devices, tp: 1, pp: 1 },
  };
  return Object.fromEntries(graph.calls.filter((c) => "model" in c).map((c) => [c.id, layout]));
}

/** A call whose layout is decided. */
interface Place extends Layout {
  readonly id: string;
  readonly model: string | undefined;
  readonly kind: Call["kind"] | undefined;
}

/** What the file says of this graph's calls, and of calls that neither it nor its evaluation has: for the check to find. */
function fileLayouts(file: PlanFile, input: PlanInput): Record<string, Layout> {
  const { graph, of, evaluated = [] } = input, own = new Set(graph.calls.map((c) => c.id));
  const said = Object.entries(file.calls).filter(([id]) => own.has(id) || !(of || evaluated.includes(id)));
  const layouts = Object.fromEntries(said.map(([id, call]) => [id, layoutOf(id, call, file, input)]));
  const places = [
    ...of ? placesOf(of.graph, of.plan.assignments) : [],
    ...placesOf(graph, layouts),
  ];
  for (const call of graph.calls) {
    if (!("model" in call) || layouts[call.id]) continue;
    const layout = onlyLayout(places.filter((p) => p.id === call.id)) ??
      onlyLayout(places.filter((p) => p.model === call.model && p.kind === call.kind)) ??
      onlyLayout(places.filter((p) => p.model === call.model));
    const trained = places.find((p) => p.kind === "train" && p.model === call.model && call.kind === "train");
    if (layout) layouts[call.id] = { ...layout, zero: zeroOf(call.id, trained?.zero, file, graph) };
  }
  return layouts;
}

function placesOf(graph: CallGraph, layouts: Readonly<Record<string, Layout>>): Place[] {
  return Object.entries(layouts).map(([id, layout]) => {
    const call = graph.calls.find((c) => c.id === id);
    return { ...layout, id, model: call && "model" in call ? call.model : undefined, kind: call?.kind };
  });
}

/** The layout that all of them have; null where there are several, or none. */
function onlyLayout(places: readonly Place[]): Layout | null {
  const distinct = new Set(places.map(({ mesh, strategy }) => canonical({ mesh, strategy })));
  if (distinct.size !== 1) return null;
  const { mesh, strategy } = places[0]!;
  return { mesh, strategy, offload: places[0]!.offload ?? false };
}

function layoutOf(id: string, call: FileCall, file: PlanFile, { graph, cluster }: PlanInput): Layout {
  const { devices, ...rest } = call;
  return {
    ...rest,
    mesh: "node" in devices ? devices : meshOf(devices, cluster),
    zero: zeroOf(id, call.zero, file, graph),
  };
}

/** The file's default is for calls that have optimizer states. */
const zeroOf = (id: string, said: 0 | 1 | undefined, file: PlanFile, graph: CallGraph): 0 | 1 =>
  said ?? (graph.calls.find((c) => c.id === id)?.kind === "train" ? file.defaults.zero ?? 0 : 0);

const clusterProblems = (made: NonNullable<PlanFile["cluster"]>, now: Cluster): string[] =>
  made.nodes === now.nodes && made.devicesPerNode === now.devicesPerNode ? [] : [
    `it was made for ${print(made)} and this run has ${
      print(now)
    }, give --devices cpu:${made.nodes}x${made.devicesPerNode}`,
  ];
const print = (c: Pick<Cluster, "nodes" | "devicesPerNode">): string =>
  `${c.nodes} ${c.nodes === 1 ? "node" : "nodes"} × ${c.devicesPerNode} devices`;
