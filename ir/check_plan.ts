/** The written specification of an execution plan. Every violation is listed. */
import type { CallGraph, ModelFunctionCall } from "./graph.ts";
import { canonical, digest } from "./digest.ts";
import type { Assignment, Cluster, ExecutionPlan } from "./plan.ts";

/** @throws TypeError that lists every violation of the specification */
export function checkPlan(plan: ExecutionPlan, graph: CallGraph): void {
  const found = planViolations(plan, graph);
  if (found.length) throw new TypeError(`Cannot use this plan for "${graph.name}": ${found.join("; ")}`);
}

/** Every violation of the specification of a plan for a graph. */
export function planViolations(plan: ExecutionPlan, graph: CallGraph): string[] {
  const found: string[] = [], now = digest(graph);
  if (plan.graph !== now) found.push(`it was made for graph ${plan.graph} and this is ${now}, plan again`);
  if (!(whole(plan.cluster.nodes) && whole(plan.cluster.devicesPerNode))) {
    found.push("its cluster has no devices");
  }
  const calls = graph.calls.filter((c): c is ModelFunctionCall => "model" in c);
  for (const { id } of calls) if (!plan.assignments[id]) found.push(`${id} has no assignment`);
  const trained = new Map<string, string>();
  for (const [id, assignment] of Object.entries(plan.assignments)) {
    const call = calls.find((c) => c.id === id);
    if (!call) {
      found.push(`"${id}" is assigned and is no model function call of the graph`);
      continue;
    }
    found.push(...assignmentViolations(assignment, plan.cluster).map((v) => `${id} ${v}`));
    if (call.kind !== "train") {
      if (assignment.zero !== 0) found.push(`${id} shards optimizer states and does not train`);
      continue;
    }
    const other = trained.get(call.model);
    if (other !== undefined && canonical(plan.assignments[other]) !== canonical(assignment)) {
      found.push(`${id} and ${other} train "${call.model}" under two assignments`);
    }
    trained.set(call.model, id);
  }
  return found;
}

const whole = (n: number): boolean => Number.isInteger(n) && n > 0;

function assignmentViolations(a: Assignment, cluster: Cluster): string[] {
  const found: string[] = [], { mesh, strategy } = a, { dp, tp, pp } = strategy;
  const inside = (start: number, size: number, end: number) =>
    Number.isInteger(start) && start >= 0 && whole(size) && start + size <= end;
  if (!inside(mesh.node, mesh.nodes, cluster.nodes)) {
    found.push(`uses nodes ${mesh.node} to ${mesh.node + mesh.nodes - 1} of ${cluster.nodes}`);
  }
  if (!inside(mesh.device, mesh.devices, cluster.devicesPerNode)) {
    found.push(
      `uses devices ${mesh.device} to ${
        mesh.device + mesh.devices - 1
      } of ${cluster.devicesPerNode} in a node`,
    );
  }
  if (mesh.nodes > 1 && mesh.devices !== cluster.devicesPerNode) {
    found.push(
      `spans ${mesh.nodes} nodes with ${mesh.devices} of ${cluster.devicesPerNode} devices in each, use whole nodes`,
    );
  }
  const devices = mesh.nodes * mesh.devices;
  if (![dp, tp, pp].every(whole) || dp * tp * pp !== devices) {
    found.push(`has ${devices} devices for dp ${dp} × tp ${tp} × pp ${pp}`);
  }
  if (!whole(a.microBatchTokens)) found.push(`has micro-batches of ${a.microBatchTokens} tokens`);
  return found;
}
