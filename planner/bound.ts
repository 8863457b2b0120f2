/** No legal plan of the space is faster than this: the proof is in docs/planner.md. */
import type { Call, CallGraph } from "../ir/graph.ts";
import type { CostInput } from "./call_cost.ts";
import type { Candidate, Unit } from "./candidates.ts";
import { type Evaluator, homeOf } from "./evaluate.ts";

/** One sentence about every plan: seconds of some calls, and device-seconds of others over all devices, take part of a step. */
export interface Inequality {
  /** "actor.generate → [ref.infer, reward.infer] → actor.train", "all devices". */
  readonly name: string;
  /** Steps that it spans. */
  readonly steps: number;
  /** Calls whose seconds count. */
  readonly chain: readonly string[];
  /** Calls whose device-seconds count, shared out over all devices. */
  readonly area: readonly string[];
}

export interface Bound {
  /** Of a step, once steps follow one another evenly. */
  readonly seconds: number;
  /** What all the memory together is worth: seconds that the bound would lose if it cost nothing. 0 where memory is no limit. */
  readonly memory: number;
  /** The inequalities that make it, heaviest first; weights add up to 1. */
  readonly parts: readonly { readonly inequality: Inequality; readonly weight: number }[];
}

/** Rounds of making the weights better; any weights give a bound. */
const ROUNDS = 400;
/** Chains of a graph beyond so many are left out: the bound is then weaker, and still one. */
const MOST = 400;

/** What the relaxed problem chose for every unit at some weights: good places for a search to start from. */
export type Relaxed = readonly { readonly candidate: Candidate; readonly offloaded: boolean }[];

/** A lower bound of the period of every plan whose units use candidates of `lists`, and the choices that it came from. */
export function lowerBound(
  input: CostInput,
  units: readonly Unit[],
  lists: readonly (readonly Candidate[])[],
  evaluator: Pick<Evaluator, "host">,
): Bound & { readonly relaxed: readonly Relaxed[] } {
  if (lists.some((list) => list.length === 0)) {
    return { seconds: Infinity, memory: 0, parts: [], relaxed: [] };
  }
  const { graph, cluster } = input,
    all = inequalitiesOf(graph),
    devices = cluster.nodes * cluster.devicesPerNode;
  const index = new Map(graph.calls.map((c, i) => [c.id, i]));
  // Everything in seconds of one step, by inequality and call.
  const seconds = all.map((q) => coefficients(q.chain, index, 1 / q.steps));
  const areas = all.map((q) => coefficients(q.area, index, 1 / (q.steps * devices)));
  const options = units.map((_, i) => optionsOf(input, units, lists[i]!, i, index));
  const host = graph.calls.map((c) => evaluator.host(c.id) ?? 0), relaxed = new Map<string, Relaxed>();
  let weights = all.map(() => 1 / all.length), prices = graph.calls.map(() => 0);
  let best = { seconds: 0, memory: 0, weights };
  for (let round = 0; round < ROUNDS; round++) {
    const alpha = mixed(seconds, weights),
      beta = mixed(areas, weights),
      everywhere = weights[0]! / devices,
      memory = prices.reduce((a, b) => a + b, 0);
    let total = host.reduce((n, s, c) => n + s * (alpha[c]! + beta[c]!), 0) - memory;
    const chosen = options.map((list) => {
      let least = Infinity, at = list[0]!;
      for (const o of list) {
        let cost = memory * o.bytes + everywhere * o.moving;
        for (let i = 0; i < o.calls.length; i++) {
          const call = o.calls[i]!;
          cost += o.seconds[i]! * (alpha[call]! + beta[call]! * o.devices) + prices[call]! * o.turns[i]!;
        }
        if (cost < least) [least, at] = [cost, o];
      }
      total += least;
      return at;
    });
    if (total > best.seconds) best = { seconds: total, memory, weights };
    relaxed.set(chosen.map((o, i) => options[i]!.indexOf(o)).join(), chosen);
    // Weight goes to what these choices violate most (multiplicative weights, Arora et al. 2012); memory has a price of its own.
    const step = RATE / Math.sqrt(round + 1), scale = Math.max(best.seconds, 1e-12);
    const scores = all.map((_, q) => {
      let value = host.reduce((n, s, c) => n + s * (seconds[q]![c]! + areas[q]![c]!), 0);
      for (const o of chosen) {
        if (q === 0) value += o.moving / devices;
        o.calls.forEach((call, i) =>
          value += o.seconds[i]! * (seconds[q]![call]! + areas[q]![call]! * o.devices)
        );
      }
      return Math.log(Math.max(weights[q]!, 1e-12)) + step * value / scale;
    });
    const top = Math.max(...scores),
      raw = scores.map((s) => Math.exp(s - top)),
      sum = raw.reduce((a, b) => a + b, 0);
    weights = raw.map((x) => x / sum);
    const always = chosen.reduce((n, o) => n + o.bytes, 0);
    const used = graph.calls.map(() => -Infinity);
    for (const o of chosen) o.calls.forEach((call, i) => used[call] = always + o.turns[i]!);
    prices = prices.map((price, c) => Math.max(0, price + step * scale * (used[c]! - 1)));
  }
  const parts = all.map((inequality, q) => ({ inequality, weight: best.weights[q]! })).filter((p) =>
    p.weight > 0.01
  )
    .sort((a, b) => b.weight - a.weight);
  return { seconds: best.seconds, memory: best.memory, parts, relaxed: [...relaxed.values()] };
}

/** Share by which weights follow what is violated, at first. */
const RATE = 1;

interface Option {
  readonly candidate: Candidate;
  /** The model's home is in host memory between uses. */
  readonly offloaded: boolean;
  readonly calls: readonly number[];
  readonly seconds: readonly number[];
  readonly devices: number;
  /** Memory that it takes all the time, as a share of that of all devices. */
  readonly bytes: number;
  /** Memory that each call takes while it runs, likewise. */
  readonly turns: readonly number[];
  /** Device-seconds of moving the home to the host and back. */
  readonly moving: number;
}

/** What the bound sees of candidates; those that another one beats in everything are left out. */
function optionsOf(
  { cluster, profile, graph }: CostInput,
  units: readonly Unit[],
  list: readonly Candidate[],
  unit: number,
  index: ReadonlyMap<string, number>,
): Option[] {
  const { calls: own, model } = units[unit]!, calls = own.map((c) => index.get(c.id)!);
  const home = homeOf(units, model) === unit, { optimizer, ema } = graph.models[model]!;
  const changes = optimizer !== null || ema !== undefined,
    all = cluster.nodes * cluster.devicesPerNode * cluster.memoryBytes;
  const made = list.flatMap((candidate): Option[] => {
    const { costs, held, mesh, strategy: { dp, tp } } = candidate, devices = mesh.nodes * mesh.devices;
    const sum = (of: (stage: number) => number) => held.reduce((n, _, stage) => n + of(stage), 0) * dp * tp;
    const always = sum((s) => costs.reduce((n, c) => n + c.stages[s]!.own, 0));
    const turns = costs.map((c) => sum((s) => c.stages[s]!.turn + least(held[s]!.grads)) / all);
    const resident = sum((s) => least(held[s]!.params + held[s]!.moments));
    const option = { candidate, calls, seconds: costs.map((c) => c.seconds), devices };
    if (!home) return [{ ...option, offloaded: false, bytes: always / all, turns, moving: 0 }];
    // What nothing changes need not go back.
    const away = devices * (changes ? 2 : 1) * Math.max(...held.map((h) => h.params + h.moments)) /
      (profile.hostGBps * 1e9);
    const there = turns.map((turn) => turn + resident / all);
    return [
      { ...option, offloaded: false, bytes: (always + resident) / all, turns, moving: 0 },
      { ...option, offloaded: true, bytes: always / all, turns: there, moving: away },
    ];
  }).sort((a, b) => a.devices - b.devices || a.seconds[0]! - b.seconds[0]!);
  const kept: Option[] = [];
  for (const o of made) {
    const beaten = kept.some((k) =>
      k.devices <= o.devices && k.bytes <= o.bytes && k.moving <= o.moving &&
      k.seconds.every((s, i) => s <= o.seconds[i]!) && k.turns.every((t, i) => t <= o.turns[i]!)
    );
    if (!beaten) kept.push(o);
  }
  return kept;
}

/** Of the fullest rank of a stage; others may have a few per cent less, which no bound may count. */
const least = (bytes: number): number => UNEVEN * bytes;
const UNEVEN = 0.95;

function coefficients(ids: readonly string[], index: ReadonlyMap<string, number>, each: number): number[] {
  const row = new Array<number>(index.size).fill(0);
  for (const id of ids) row[index.get(id)!] = each;
  return row;
}

function mixed(rows: readonly (readonly number[])[], weights: readonly number[]): number[] {
  const out = new Array<number>(rows[0]!.length).fill(0);
  rows.forEach((row, q) => row.forEach((x, c) => out[c]! += weights[q]! * x));
  return out;
}

/** Everything that holds for all plans of a graph. */
export function inequalitiesOf(graph: CallGraph): Inequality[] {
  const { calls } = graph, before = dependencies(calls), models = calls.filter((c) => "model" in c);
  const found: Inequality[] = [{ name: "all devices", steps: 1, chain: [], area: models.map((c) => c.id) }];
  const mayBeEarly = (c: Call) =>
    c.kind === "generate" && Object.values(c.reads).every((field) => field in graph.source.fields);
  const after = (a: Call, b: Call) => before.get(b)!.has(a);
  const add = (path: readonly Call[], steps: number) => {
    found.push({ name: path.map((c) => c.id).join(" → "), steps, chain: path.map((c) => c.id), area: [] });
    // Between two that follow each other by a way: everything that has to happen there, on all devices.
    for (let i = 0; i < path.length; i++) {
      for (let j = i + 2; j < path.length; j++) {
        const between = models.filter((c) => after(path[i]!, c) && after(c, path[j]!));
        if (between.length < 2) continue;
        const chain = [...path.slice(0, i + 1), ...path.slice(j)].map((c) => c.id),
          area = between.map((c) => c.id);
        const name = [
          ...path.slice(0, i + 1).map((c) => c.id),
          `[${area.join(", ")}]`,
          ...path.slice(j).map((c) => c.id),
        ];
        found.push({ name: name.join(" → "), steps, chain, area });
      }
    }
  };
  for (const path of pathsOf(calls, before)) {
    const first = path[0]!, last = path.at(-1)!;
    // What is not early waits for the whole step before.
    if (!mayBeEarly(first)) add(path, 1);
    else if (last.kind === "train" && "model" in first && first.model === last.model) {
      add(path, first.kind === "generate" && first.sampling.maxLag > 0 ? 2 : 1);
    }
  }
  const distinct = new Map(found.map((q) => [`${q.steps} ${q.chain.join()} ${q.area.join()}`, q]));
  return [...distinct.values()];
}

/** All calls that have to end before a call begins, in the same step. */
function dependencies(calls: readonly Call[]): ReadonlyMap<Call, ReadonlySet<Call>> {
  const all = new Map<Call, Set<Call>>();
  for (const call of calls) {
    const direct = calls.filter((c) =>
      Object.values(c.writes).some((f) => Object.values(call.reads).includes(f))
    );
    all.set(call, new Set(direct.flatMap((c) => [c, ...all.get(c) ?? []])));
  }
  return all;
}

/** Longest chains: every way from a call that waits for none to one that none waits for, and for each its begins and ends. */
function pathsOf(calls: readonly Call[], before: ReadonlyMap<Call, ReadonlySet<Call>>): Call[][] {
  const paths: Call[][] = [],
    direct = (a: Call, b: Call) =>
      before.get(b)!.has(a) && !calls.some((c) => before.get(c)!.has(a) && before.get(b)!.has(c));
  const grow = (path: readonly Call[]): void => {
    if (paths.length >= MOST) return;
    paths.push([...path]);
    for (const next of calls) if (direct(path.at(-1)!, next)) grow([...path, next]);
  };
  for (const call of calls) grow([call]);
  return paths;
}
