/** What every device would be busy with in one step of a plan, by the operations that its programs count. */
import type { GanttBlock, GanttRow } from "../engine/gantt_svg.ts";
import { shortNumber } from "../engine/table.ts";
import { coordinatesOf, devicesOf } from "../ir/mesh.ts";
import type { Instruction } from "../ir/plan.ts";
import type { Program } from "../ir/program.ts";
import type { PreparedGraph } from "./prepare.ts";

/** Operations of a program for each token, when it is full. */
const perToken = ({ flops, maxima }: Program): number => flops(maxima) / Math.max(1, maxima.tokens);

/**
 * Operations of a call on each of its ranks. Tokens are those of a step whose sequences are as long as they may be; waiting in pipelines
 * and what moves between devices are not in it.
 */
function workOf({ graph, plan, programs, sizes }: PreparedGraph, id: string): number[] {
  const call = graph.calls.find((c) => c.id === id), a = plan.assignments[id];
  if (!call || !a) return [];
  const share = sizes.sequences / a.strategy.dp, tokens = share * sizes.longest;
  return devicesOf(a.mesh, plan.cluster).map((_, rank) => {
    const { stage, tp } = coordinatesOf(a.strategy, rank);
    switch (call.kind) {
      case "generate": {
        const { prefill, decode } = programs.generate[id]!.ranks[stage]![tp]!, { samples } = call.sampling;
        const prompts = share / samples * sizes.longestPrompt;
        return prompts * perToken(prefill) + share * sizes.longestResponse * perToken(decode);
      }
      case "infer":
        return tokens * perToken(programs.infer[id]![stage]![tp]!);
      case "train": {
        const { forward, backward } = programs.train[id]!.ranks[stage]![tp]!;
        return call.epochs * tokens * ((forward ? perToken(forward) : 0) + perToken(backward));
      }
      default:
        return 0;
    }
  });
}

/** One row a device. A block begins when what it waits for has ended and its devices are free. */
export function planRows(prepared: PreparedGraph): GanttRow[] {
  const { schedule, plan: { cluster } } = prepared, ends: number[] = [], free = new Map<number, number>();
  const count = cluster.nodes * cluster.devicesPerNode;
  const blocks = Array.from({ length: count }, (): GanttBlock[] => []);
  schedule.step.forEach((action, i) => {
    const { devices, after } = action, work = action.op === "run" ? workOf(prepared, action.call) : [];
    const begin = Math.max(0, ...after.map((j) => ends[j]!), ...devices.map((d) => free.get(d) ?? 0));
    ends[i] = Math.max(begin, ...devices.map((_, rank) => begin + (work[rank] ?? 0)));
    devices.forEach((device, rank) => {
      const block = blockOf(action, begin, begin + (work[rank] ?? 0));
      if (block) blocks[device]!.push(block);
      // All devices of a call meet in its collectives: they are done together.
      free.set(device, ends[i]!);
    });
  });
  return blocks.map((own, device) => ({ label: `device ${device}`, blocks: own }));
}

function blockOf(action: Instruction, begin: number, end: number): GanttBlock | null {
  if (action.op === "reallocate") {
    return { name: `${action.from} → ${action.to}`, begin, end: begin, detail: "reallocation", mark: true };
  }
  if (action.op !== "run" || end === begin) return null;
  return { name: action.call, begin, end, detail: `${shortNumber(end - begin)} operations` };
}
