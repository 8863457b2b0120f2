/**
 * Schedules of points. What waits for what follows from which meshes overlap and which layouts are equal, not from where they are:
 * points that agree in that share one schedule's waits, and most of a search's points do.
 */
import { digest } from "../ir/digest.ts";
import { earlyInstructions } from "../ir/early.ts";
import type { ModelFunctionCall } from "../ir/graph.ts";
import type { ReplicaSpec, Schedule } from "../ir/plan.ts";
import type { CostInput } from "./call_cost.ts";
import type { Unit } from "./candidates.ts";
import { schedulesOf } from "./schedule.ts";
import { type Choice, endOf, meshAt, overlap, planOf, type Point } from "./space.ts";

/** A schedule, and which of its instructions are early (`ir/early.ts`). */
export interface Scheduled {
  readonly schedule: Schedule;
  readonly early: ReadonlySet<number>;
}

/** What points of one structure share. */
interface Shape extends Scheduled {
  /** A unit with the layout of each replica. */
  readonly units: ReadonlyMap<string, number>;
}

export class Schedules {
  readonly #shapes = new Map<string, Shape>();
  readonly #digest: string;
  /** Units on whose first device arithmetic runs. */
  readonly #computing: readonly number[];

  constructor(readonly input: CostInput, readonly units: readonly Unit[]) {
    this.#digest = digest(input.graph);
    this.#computing = computingUnits(input, units);
  }

  /** The plan of a point. */
  plan(point: Point) {
    return planOf(this.input, this.#digest, this.units, point);
  }

  /** The schedule that a run would follow. */
  exact(point: Point): Scheduled {
    const { graph } = this.input, schedule = schedulesOf([{ graph, plan: this.plan(point) }])[0]!;
    return { schedule, early: earlyInstructions(schedule, graph) };
  }

  /** The same instructions, waits and replicas; the devices of instructions are those of another point. */
  of(point: Point): Scheduled {
    const key = this.#structure(point), known = this.#shapes.get(key);
    if (!known) {
      const made = this.exact(point);
      this.#shapes.set(key, { ...made, units: this.#unitsOf(made.schedule, point) });
      return made;
    }
    const { devicesPerNode } = this.input.cluster, replicas: Record<string, ReplicaSpec> = {};
    for (const [name, spec] of Object.entries(known.schedule.replicas)) {
      const choice = point.choices[known.units.get(name)!]!, { strategy, zero } = choice.candidate;
      replicas[name] = {
        ...spec,
        mesh: meshAt(choice, { devicesPerNode }),
        strategy,
        zero: spec.home ? zero : 0,
      };
    }
    return { schedule: { ...known.schedule, replicas }, early: known.early };
  }

  /** Everything about a point that its waits depend on. */
  #structure({ choices, offloaded }: Point): string {
    let key = "";
    for (let i = 0; i < choices.length; i++) {
      for (let j = 0; j < i; j++) {
        const [a, b] = [choices[i]!, choices[j]!];
        key += !overlap(a, b) ? "." : this.units[i]!.model === this.units[j]!.model && same(a, b) ? "=" : "o";
      }
      for (const user of this.#computing) {
        const { first } = choices[user]!;
        key += choices[i]!.first <= first && first < endOf(choices[i]!) ? "c" : ".";
      }
    }
    for (const a of this.#computing) {
      for (const b of this.#computing) key += choices[a]!.first === choices[b]!.first ? "=" : ".";
    }
    return key + offloaded;
  }

  #unitsOf({ replicas }: Schedule, point: Point): Map<string, number> {
    const { cluster: { devicesPerNode } } = this.input;
    return new Map(
      Object.entries(replicas).map(([name, spec]) => {
        const at = (i: number) => {
          const choice = point.choices[i]!, mesh = meshAt(choice, { devicesPerNode });
          return this.units[i]!.model === spec.model && mesh.node === spec.mesh.node &&
            mesh.device === spec.mesh.device &&
            mesh.nodes === spec.mesh.nodes && mesh.devices === spec.mesh.devices &&
            sameStrategy(choice.candidate, spec);
        };
        const found = this.units.map((_, i) => i).filter(at);
        const trains = found.find((i) => this.units[i]!.calls[0]!.kind === "train");
        return [name, (spec.home ? trains : undefined) ?? found[0]!];
      }),
    );
  }
}

const sameStrategy = (a: Pick<ReplicaSpec, "strategy">, b: Pick<ReplicaSpec, "strategy">): boolean =>
  a.strategy.dp === b.strategy.dp && a.strategy.tp === b.strategy.tp && a.strategy.pp === b.strategy.pp;

/** One layout. */
const same = (a: Choice, b: Choice): boolean =>
  a.first === b.first && endOf(a) === endOf(b) && sameStrategy(a.candidate, b.candidate);

/** Units that use what a compute call makes first: it runs on their first device, see `schedule.ts`. */
function computingUnits({ graph }: CostInput, units: readonly Unit[]): number[] {
  const users = graph.calls.flatMap((call) => {
    if (call.kind !== "compute") return [];
    const made = new Set(Object.values(call.writes));
    const user = graph.calls.find((c): c is ModelFunctionCall =>
      "model" in c && Object.values(c.reads).some((field) => made.has(field))
    );
    // Where nothing uses it, the home of the first model has it.
    const model = Object.keys(graph.models)[0]!;
    return user
      ? [units.findIndex((u) => u.calls.includes(user))]
      : units.flatMap((u, i) => u.model === model ? [i] : []);
  });
  return [...new Set(users)];
}
