/** Neighbours of a point: one unit runs otherwise, two of one model alike, two change places, a model waits elsewhere. */
import type { CostInput } from "./call_cost.ts";
import { type Candidate, placesOf, type Unit } from "./candidates.ts";
import type { Fit } from "./fit.ts";
import type { MeshShape } from "./groups.ts";
import type { Random } from "./random.ts";
import { type Choice, endOf, type Point } from "./space.ts";

const keyOf = ({ nodes, devices }: MeshShape): string => `${nodes}x${devices}`;

/** Share of moves that are two. */
const TWICE = 0.3;
/** Meshes that are tried beside another one: the largest that there is room for. */
const LARGEST = 3;

export class Moves {
  /** Candidates of every unit by mesh, fastest first. */
  readonly #byMesh: readonly ReadonlyMap<string, readonly Candidate[]>[];
  readonly #meshes: readonly (readonly string[])[];
  readonly #shapes: readonly (readonly (readonly [key: string, mesh: MeshShape])[])[];

  readonly #devices: number;

  constructor(
    readonly input: CostInput,
    readonly units: readonly Unit[],
    lists: readonly (readonly Candidate[])[],
    readonly random: Random,
    readonly fit: Fit,
  ) {
    this.#devices = input.cluster.nodes * input.cluster.devicesPerNode;
    this.#byMesh = lists.map((list) =>
      new Map(
        [...Map.groupBy(list, (c) => keyOf(c.mesh))].map(([key, all]) => [
          key,
          all.toSorted((a, b) => a.seconds - b.seconds),
        ]),
      )
    );
    this.#meshes = this.#byMesh.map((m) => [...m.keys()]);
    this.#shapes = this.#byMesh.map((m) => [...m].map(([key, all]) => [key, all[0]!.mesh] as const));
  }

  /** One of them, or two at once: what saves memory in one place pays for what takes it in another. */
  from(point: Point): Point {
    const one = this.#one(point);
    return this.random.next() < TWICE ? this.#one(one) : one;
  }

  #one(point: Point): Point {
    const unit = this.random.below(this.units.length), draw = this.random.next();
    if (draw < 0.3) return this.#with(point, unit, this.#anywhere(unit));
    if (draw < 0.6) return this.#with(point, unit, this.#sameMesh(point, unit));
    if (draw < 0.65) return this.#with(point, unit, this.#shifted(point.choices[unit]!));
    if (draw < 0.7) return this.#beside(point, unit);
    if (draw < 0.76) return this.#apart(point, unit);
    if (draw < 0.78) return this.fit.of(point);
    if (draw < 0.86) return this.#alike(point, unit);
    if (draw < 0.97) return this.#swapped(point, unit);
    return this.#offload(point);
  }

  #with(point: Point, unit: number, choice: Choice): Point {
    return { choices: point.choices.with(unit, choice), offloaded: point.offloaded };
  }

  /** Fast ones more often: the square of an even draw. */
  #fast(list: readonly Candidate[]): Candidate {
    return list[Math.floor(list.length * this.random.next() ** 2)]!;
  }

  #anywhere(unit: number): Choice {
    const candidate = this.#fast(this.#byMesh[unit]!.get(this.random.pick(this.#meshes[unit]!))!);
    return { candidate, first: this.random.pick(placesOf(candidate.mesh, this.input.cluster)) };
  }

  #sameMesh(point: Point, unit: number): Choice {
    const { candidate: { mesh }, first } = point.choices[unit]!;
    return { candidate: this.#fast(this.#byMesh[unit]!.get(keyOf(mesh))!), first };
  }

  #shifted({ candidate }: Choice): Choice {
    return { candidate, first: this.random.pick(placesOf(candidate.mesh, this.input.cluster)) };
  }

  /** Shares out all devices between two units: so may those that need nothing of one another run at the same time. */
  #apart(point: Point, unit: number): Point {
    const other = this.random.below(this.units.length);
    if (other === unit) return point;
    const parts = this.#shapes[unit]!.filter(([, mesh]) => mesh.nodes * mesh.devices < this.#devices);
    if (!parts.length) return point;
    const [key, mesh] = this.random.pick(parts), candidate = this.#fast(this.#byMesh[unit]!.get(key)!);
    const begin = this.#with(point, unit, { candidate, first: 0 });
    return this.#within(begin, other, mesh.nodes * mesh.devices, this.#devices);
  }

  /** Puts a unit on devices that another one leaves free. */
  #beside(point: Point, unit: number): Point {
    const other = point.choices[this.random.below(this.units.length)]!;
    return this.random.next() < 0.5
      ? this.#within(point, unit, 0, other.first)
      : this.#within(point, unit, endOf(other), this.#devices);
  }

  /** Puts a unit on some of these devices. */
  #within(point: Point, unit: number, from: number, to: number): Point {
    const fitting = this.#shapes[unit]!.flatMap(([key, mesh]) => {
      const places = placesOf(mesh, this.input.cluster).filter((p) =>
        p >= from && p + mesh.nodes * mesh.devices <= to
      );
      return places.length ? [{ key, places }] : [];
    }).slice(-LARGEST);
    if (!fitting.length) return point;
    const { key, places } = this.random.pick(fitting);
    const candidate = this.#fast(this.#byMesh[unit]!.get(key)!);
    return this.#with(point, unit, { candidate, first: this.random.pick(places) });
  }

  /** Gives a unit the layout of another one of its model, or its mesh of another one of any. */
  #alike(point: Point, unit: number): Point {
    const others = this.units.map((_, i) => i).filter((i) => i !== unit);
    if (!others.length) return point;
    const same = others.filter((i) => this.units[i]!.model === this.units[unit]!.model);
    const other = point.choices[this.random.pick(same.length && this.random.next() < 0.7 ? same : others)]!;
    return this.#moved(point, unit, other);
  }

  /** Puts a unit on another choice's mesh, with its strategy where the unit may have that. */
  #moved(point: Point, unit: number, to: Choice): Point {
    const list = this.#byMesh[unit]!.get(keyOf(to.candidate.mesh));
    if (!list) return point;
    const { dp, tp, pp } = to.candidate.strategy;
    const same = list.filter(({ strategy: s }) => s.dp === dp && s.tp === tp && s.pp === pp);
    return this.#with(point, unit, { candidate: this.#fast(same.length ? same : list), first: to.first });
  }

  #swapped(point: Point, unit: number): Point {
    const other = this.random.below(this.units.length),
      [a, b] = [point.choices[unit]!, point.choices[other]!];
    return this.#moved(this.#moved(point, unit, b), other, a);
  }

  #offload({ choices, offloaded }: Point): Point {
    const { model } = this.random.pick(this.units), there = offloaded.includes(model);
    return {
      choices,
      offloaded: there ? offloaded.filter((m) => m !== model) : [...offloaded, model].sort(),
    };
  }
}
