/** The written specification of an execution plan, as far as it needs no model: every violation is listed. */
import { canonical, digest } from "./digest.ts";
import type { CallGraph, ModelFunctionCall } from "./graph.ts";
import type { Assignment, Cluster, DeviceMesh, ExecutionPlan } from "./plan.ts";

/** @throws TypeError that lists every violation of the specification */
export function checkPlan(plan: ExecutionPlan, graph: CallGraph): void {
  refusePlan(graph, planViolations(plan, graph));
}

/**
 * @param origin file of the plan, where it has one
 * @throws TypeError that lists them when there are any violations
 */
export function refusePlan(graph: CallGraph, violations: readonly string[], origin = "this plan"): void {
  if (violations.length) {
    throw new TypeError(`Cannot use ${origin} for "${graph.name}": ${violations.join("; ")}`);
  }
}

/** Every violation of the specification of a plan for a graph. */
export function planViolations(plan: ExecutionPlan, graph: CallGraph): string[] {
  const found: string[] = [], now = digest(graph);
  if (plan.graph !== now) found.push(`it was made for graph ${plan.graph} and this is ${now}, plan again`);
  if (!(whole(plan.cluster.nodes) && whole(plan.cluster.devicesPerNode))) {
    found.push("its cluster has no devices");
  }
  const calls = graph.calls.filter((c): c is ModelFunctionCall => "model" in c);
  for (const call of calls) if (!plan.assignments[call.id]) found.push(unassigned(call, calls, plan));
  for (const [id, assignment] of Object.entries(plan.assignments)) {
    const call = calls.find((c) => c.id === id);
    if (!call) {
      found.push(`"${id}" is assigned and is no model function call of the graph`);
      continue;
    }
    found.push(...assignmentViolations(assignment, plan.cluster).map((v) => `${id} ${v}`));
    if (call.kind !== "train" && assignment.zero !== 0) {
      found.push(`${id} shards optimizer states and does not train`);
    }
  }
  return [...found, ...disagreements(calls, plan)];
}

const whole = (n: number): boolean => Number.isInteger(n) && n > 0;
const layoutOf = ({ mesh, strategy }: Assignment): string => canonical({ mesh, strategy });

function unassigned(
  call: ModelFunctionCall,
  calls: readonly ModelFunctionCall[],
  plan: ExecutionPlan,
): string {
  const others = calls.filter((c) => c.model === call.model && plan.assignments[c.id]);
  const layouts = new Set(others.map((c) => layoutOf(plan.assignments[c.id]!)));
  const several = layouts.size > 1 ? ` and ${others.map((c) => c.id).join(" and ")} lie differently` : "";
  return `${call.id} has no assignment${several}, give it one`;
}

function assignmentViolations(a: Assignment, cluster: Cluster): string[] {
  const { dp, tp, pp } = a.strategy,
    devices = a.mesh.nodes * a.mesh.devices,
    found = meshViolations(a.mesh, cluster);
  if (![dp, tp, pp].every(whole) || dp * tp * pp !== devices) {
    found.push(`has ${devices === 1 ? "1 device" : `${devices} devices`} for dp ${dp} × tp ${tp} × pp ${pp}`);
  }
  if (!whole(a.microBatchTokens)) found.push(`has micro-batches of ${a.microBatchTokens} tokens`);
  return found;
}

function meshViolations(mesh: DeviceMesh, { nodes, devicesPerNode }: Cluster): string[] {
  const fine = [mesh.nodes, mesh.devices, mesh.node + 1, mesh.device + 1].every(whole);
  if (mesh.nodes > 1 && mesh.devices !== devicesPerNode) {
    return [
      `spans ${mesh.nodes} nodes with ${mesh.devices} of ${devicesPerNode} devices in each, use whole nodes`,
    ];
  }
  const first = mesh.node * devicesPerNode + mesh.device, last = first + mesh.nodes * mesh.devices - 1;
  const range = `uses ${first === last ? `device ${first}` : `devices ${first}-${last}`}`;
  if (!fine || last >= nodes * devicesPerNode) return [`${range} of 0-${nodes * devicesPerNode - 1}`];
  return mesh.device + mesh.devices <= devicesPerNode
    ? []
    : [`${range}, which are neither of one node nor whole nodes`];
}

/** Calls of one model that have to agree: those that train it have one optimizer state, those of one layout have one replica. */
function disagreements(calls: readonly ModelFunctionCall[], plan: ExecutionPlan): string[] {
  const found: string[] = [], seen = new Map<string, { readonly id: string; readonly value: string }>();
  const agree = (id: string, about: string, value: string, sentence: (other: string) => string) => {
    const first = seen.get(about);
    if (!first) seen.set(about, { id, value });
    else if (first.value !== value) found.push(sentence(first.id));
  };
  for (const { id, model, kind } of calls) {
    const a = plan.assignments[id];
    if (!a) continue;
    if (kind === "train") {
      const state = canonical([layoutOf(a), a.zero]);
      agree(
        id,
        `train ${model}`,
        state,
        (other) => `${id} and ${other} train "${model}" under two assignments`,
      );
    }
    const replica = `replica ${model} ${layoutOf(a)}`;
    agree(
      id,
      replica,
      `${a.offload}`,
      (other) => `${id} and ${other} use one replica and only one offloads it`,
    );
  }
  return found;
}
