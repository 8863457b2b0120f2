/** Seconds of moving parameters: between two layouts of a model, and between a device and its host. */
import { type Grid, type Shard, shardsOf } from "../compiler/layout.ts";
import { type Holder, reallocationBytes } from "../compiler/reallocate.ts";
import { coordinatesOf, devicesOf } from "../ir/mesh.ts";
import type { DeviceMesh, ReplicaSpec } from "../ir/plan.ts";
import type { CostInput } from "./call_cost.ts";
import { linkOf } from "./groups.ts";

type Place = Pick<ReplicaSpec, "model" | "mesh" | "strategy">;

/** Costs of the reallocations of one run; equal ones are worked out once. */
export class Reallocations {
  readonly #shards = new Map<string, Grid<Shard>>();
  readonly #seconds = new Map<string, number>();

  constructor(readonly input: CostInput) {}

  /**
   * Seconds from one layout to another: the busiest device's bytes over its link, those between nodes over the network, with
   * everything that the same reallocation sends over them; then what is copied inside a device.
   */
  seconds(from: Place, to: Place): number {
    const { cluster } = this.input, base = Math.min(from.mesh.node, to.mesh.node), key = keyOf(from, to);
    const known = this.#seconds.get(key);
    if (known !== undefined) return known;
    const { sent, received, sentAcross, receivedAcross, bytes, localBytes } = reallocationBytes(
      this.#holders(from, base),
      this.#holders(to, base),
      cluster,
    );
    const inside = linkOf(cluster.devicesPerNode, cluster.links),
      across = linkOf(cluster.devicesPerNode + 1, cluster.links);
    let slowest = 0;
    for (const [all, far] of [[sent, sentAcross], [received, receivedAcross]] as const) {
      for (const [device, n] of all) {
        const away = far.get(device) ?? 0;
        slowest = Math.max(slowest, (n - away) / (inside.GBps * 1e9), away / (across.GBps * 1e9));
      }
    }
    const { memoryGBps, submitMicroseconds } = this.input.profile,
      latency = sentAcross.size ? across : inside;
    const moves = bytes + localBytes > 0 ? submitMicroseconds + (bytes > 0 ? latency.microseconds : 0) : 0;
    const local = 2 * localBytes / (to.mesh.nodes * to.mesh.devices) / (memoryGBps * 1e9);
    const seconds = slowest + local + moves * 1e-6;
    this.#seconds.set(key, seconds);
    return seconds;
  }

  /**
   * About as much, at once: every device gets all of its piece, nodes share out what enters them. What the search walks on; what
   * it keeps is worked out.
   *
   * @param bytes of a rank of `to`
   */
  estimate(from: Place, to: Place, bytes: number): number {
    const known = this.#seconds.get(keyOf(from, to));
    if (known !== undefined) return known;
    const { cluster: { devicesPerNode: each, links } } = this.input;
    const inside = bytes / (linkOf(each, links).GBps * 1e9);
    if (from.mesh.nodes === 1 && to.mesh.nodes === 1 && from.mesh.node === to.mesh.node) return inside;
    const entering = bytes * Math.min(to.strategy.tp, each) / Math.min(to.mesh.devices, each);
    return Math.max(inside, entering / (linkOf(each + 1, links).GBps * 1e9));
  }

  /** Seconds of bringing so many bytes of a device from the host, or there. */
  hostSeconds(bytes: number): number {
    return bytes / (this.input.profile.hostGBps * 1e9);
  }

  #holders({ model, mesh, strategy }: Place, base: number): Holder[] {
    const { configs, graph, cluster } = this.input, key = `${model} ${strategy.tp} ${strategy.pp}`;
    let shards = this.#shards.get(key);
    if (!shards) {
      this.#shards.set(key, shards = shardsOf(configs[model]!, graph.models[model]!.head, strategy));
    }
    return devicesOf({ ...mesh, node: mesh.node - base }, cluster).map((device, rank) => {
      const at = coordinatesOf(strategy, rank);
      return { device, shard: shards[at.stage]![at.tp]! };
    });
  }
}

/** The same for places that are moved by whole nodes. */
function keyOf(from: Place, to: Place): string {
  const base = Math.min(from.mesh.node, to.mesh.node);
  const near = ({ node, nodes, device, devices }: DeviceMesh) =>
    `${node - base},${nodes},${device},${devices}`;
  const cut = ({ strategy: { dp, tp, pp } }: Place) => `${dp},${tp},${pp}`;
  return `${from.model} ${near(from.mesh)} ${cut(from)} ${near(to.mesh)} ${cut(to)}`;
}
