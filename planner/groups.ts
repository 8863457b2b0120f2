/** How the ranks of a call are joined: the links of its tensor-, data- and pipeline-parallel groups. */
import { kvReplicas } from "../compiler/layout.ts";
import type { ModelConfig } from "../compiler/models/config.ts";
import type { Cluster, DeviceMesh, ParallelStrategy } from "../ir/plan.ts";
import { ALONE, type GroupLink, type Groups } from "./price.ts";

/** Devices of a mesh wherever in the cluster it is. */
export type MeshShape = Pick<DeviceMesh, "nodes" | "devices">;

/**
 * The link that joins so many neighbouring devices: the smallest one that does.
 *
 * @param span devices from the first to the last, both counted
 */
export function linkOf(
  span: number,
  links: Cluster["links"],
): Pick<GroupLink, "microseconds" | "GBps"> {
  return links.find((l) => l.devices >= span) ?? links.at(-1) ?? { microseconds: 0, GBps: Infinity };
}

/** Ranks `stride` apart, of a mesh. */
function group(ranks: number, stride: number, mesh: MeshShape, links: Cluster["links"]): GroupLink {
  if (ranks === 1) return ALONE;
  const span = (ranks - 1) * stride + 1, inside = span <= mesh.devices;
  const perNode = inside ? ranks : Math.max(1, Math.min(ranks, Math.floor(mesh.devices / stride)));
  // A group that leaves its node needs a link that joins nodes.
  return { ranks, perNode, ...linkOf(inside ? span : Math.max(span, mesh.devices + 1), links) };
}

/** The groups that a call's collectives meet in, see `AXES` in `ir/op.ts`. */
export function groupsOf(
  config: ModelConfig,
  mesh: MeshShape,
  { dp, tp, pp }: ParallelStrategy,
  links: Cluster["links"],
): Groups {
  return {
    tp: group(tp, 1, mesh, links),
    kv: group(kvReplicas(config, tp), 1, mesh, links),
    tied: group(Math.min(2, pp), dp * tp * (pp - 1), mesh, links),
    dp: group(dp, tp, mesh, links),
    world: group(dp * tp * pp, 1, mesh, links),
  };
}

/** What a stage hands on to the next goes over this link. */
export const stageLink = (
  mesh: MeshShape,
  { dp, tp }: ParallelStrategy,
  links: Cluster["links"],
): GroupLink => group(2, dp * tp, mesh, links);
