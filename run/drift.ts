/** Whether a run is as its plan was told: lengths and times of the newest steps beside those that were planned with. */
import type { Batch } from "../engine/batch.ts";
import { shortNumber } from "../engine/table.ts";
import { type CallGraph, isHostCall } from "../ir/graph.ts";
import { mean, quantiles, type StepLengths, stepLengths } from "./lengths.ts";
import type { Prediction } from "./prediction.ts";

/** Share by which figures may differ before it is said. */
const DRIFT = 0.25;
/** Newest steps that are looked at. */
export const WINDOW = 8;
/** Steps that are needed. The first one under a plan is slower and counts for nothing. */
const LEAST = 2;
/** Calls of a smaller share of a step are no reason for another plan. */
const SHARE = 0.1;

export type DriftKind = "prompts" | "responses" | "times";

/** A difference that is worth saying. */
export interface Drift {
  readonly kind: DriftKind;
  readonly planned: number;
  readonly measured: number;
  /** A sentence with both numbers. */
  readonly line: string;
}

/** What the steps under a plan were like. */
export interface Measured {
  /** Lengths that stand for all, as a workload has them. */
  readonly prompts: readonly number[];
  readonly responses: readonly number[];
  /** Median seconds by call. */
  readonly calls: Readonly<Record<string, number>>;
}

export const median = (xs: readonly number[]): number => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;

/** Whether a figure is beyond what is allowed. */
const far = (measured: number, planned: number): boolean => Math.abs(measured - planned) > DRIFT * planned;

interface Seen extends StepLengths {
  readonly seconds: number;
  readonly calls: Readonly<Record<string, number>>;
}

/** Watches the steps under one plan; every kind of drift is said once. */
export class DriftWatch {
  readonly #said = new Set<DriftKind>();
  readonly #seen: Seen[] = [];
  #first = true;

  /** @param least steps that are needed before anything is said */
  constructor(
    readonly graph: CallGraph,
    readonly prediction: Pick<Prediction, "seconds" | "calls" | "prompt" | "response">,
    readonly least = LEAST,
  ) {}

  /** Adds a step. Returns what is new. */
  add(batch: Pick<Batch, "tokens">, metrics: Readonly<Record<string, number>>): Drift[] {
    if (this.#first) {
      this.#first = false;
      return [];
    }
    const calls = Object.entries(metrics).flatMap(([name, value]) =>
      name.startsWith("seconds/") ? [[name.slice("seconds/".length), value] as const] : []
    );
    const lengths = stepLengths(this.graph, batch), { seconds = 0 } = metrics;
    this.#seen.push({ ...lengths, seconds, calls: Object.fromEntries(calls) });
    if (this.#seen.length > WINDOW) this.#seen.shift();
    if (this.#seen.length < this.least) return [];
    const found = [this.#lengths("prompts"), this.#lengths("responses"), this.#times()];
    return found.filter((d): d is Drift => d !== null && !this.#said.has(d.kind)).map((d) => {
      this.#said.add(d.kind);
      return d;
    });
  }

  /** What was measured so far; null before there is enough of it. */
  get measured(): Measured | null {
    if (this.#seen.length < this.least) return null;
    const all = (of: (s: Seen) => readonly number[]) => this.#seen.flatMap(of);
    return {
      prompts: quantiles(all((s) => s.prompts)),
      responses: quantiles(all((s) => s.responses)),
      calls: this.#medians(),
    };
  }

  #lengths(kind: "prompts" | "responses"): Drift | null {
    const measured = mean(this.#seen.flatMap((s) => s[kind]));
    const planned = kind === "prompts" ? this.prediction.prompt : this.prediction.response;
    if (!far(measured, planned)) return null;
    const line = `${kind} have ${shortNumber(measured)} tokens on average and were planned with ${
      shortNumber(planned)
    }`;
    return { kind, planned, measured, line };
  }

  #times(): Drift | null {
    const measured = median(this.#seen.map((s) => s.seconds)), { seconds: planned, calls } = this.prediction;
    const off = Object.entries(this.#medians()).flatMap(([id, seconds]) => {
      const own = calls[id] ?? 0, large = Math.max(own, seconds) >= SHARE * Math.max(measured, planned);
      return large && far(seconds, own) ? [{ id, seconds, own }] : [];
    }).sort((a, b) => Math.abs(b.seconds - b.own) - Math.abs(a.seconds - a.own));
    if (!far(measured, planned) && !off.length) return null;
    const most = off.slice(0, 3).map((c) =>
      `${c.id} ${shortNumber(c.seconds)} s, planned ${shortNumber(c.own)} s`
    );
    const line = `a step takes ${shortNumber(measured)} s and was planned to take ${shortNumber(planned)} s` +
      (most.length ? ` (${most.join("; ")})` : "");
    return { kind: "times", planned, measured, line };
  }

  #medians(): Record<string, number> {
    const ids = new Set(this.#seen.flatMap((s) => Object.keys(s.calls)));
    ids.delete("reallocation");
    return Object.fromEntries(
      [...ids].map((id) => [id, median(this.#seen.flatMap((s) => id in s.calls ? [s.calls[id]!] : []))]),
    );
  }
}

/** The question of a plan, with what was measured in place of what was assumed; how much longer calls took than predicted is left to {@link scalesOf}. */
export function measuredInput(
  { input }: Prediction,
  { prompts, responses, calls }: Measured,
): Prediction["input"] {
  const { graph, workload } = input, { scales: _, ...rest } = input;
  const host = graph.calls.filter(isHostCall).flatMap((c) =>
    c.id in calls ? [[c.id, calls[c.id]!] as const] : []
  );
  return {
    ...rest,
    workload: {
      ...workload,
      prompts,
      responses,
      hostSeconds: { ...workload.hostSeconds, ...Object.fromEntries(host) },
    },
  };
}

/** Measured over predicted seconds of every call that takes a model. */
export function scalesOf(
  { graph }: Pick<Prediction["input"], "graph">,
  predicted: Readonly<Record<string, number>>,
  { calls }: Measured,
): Record<string, number> {
  return Object.fromEntries(graph.calls.flatMap((c) => {
    const own = predicted[c.id], seen = calls[c.id];
    return "model" in c && own && seen ? [[c.id, seen / own]] : [];
  }));
}
