/** How full the slots of a rollout are as time goes on: continuous batching over responses of different lengths. */
import type { Lengths } from "./workload.ts";

/** Decode steps with about so many live rows and so much context each. */
export interface Phase {
  readonly steps: number;
  readonly rows: number;
  /** Tokens before the new one, on average over rows and steps. */
  readonly context: number;
}

interface Active {
  readonly start: number;
  readonly end: number;
  readonly prompt: number;
}

/** Phases shorter than this share of all steps are joined with their neighbour: they differ by a row or two. */
const FINE = 1 / 64;

/**
 * The phases of one rollout: a sequence enters as soon as one leaves.
 *
 * @param slots sequences in flight at most
 */
export function phasesOf(sequences: readonly Lengths[], slots: number): Phase[] {
  const waiting = sequences.filter((s) => s.response > 0), active: Active[] = [], phases: Phase[] = [];
  let next = 0, now = 0;
  while (next < waiting.length || active.length) {
    while (active.length < slots && next < waiting.length) {
      const { prompt, response } = waiting[next++]!;
      active.push({ start: now, end: now + response, prompt });
    }
    const end = Math.min(...active.map((a) => a.end)), steps = end - now;
    const context = active.reduce((n, a) => n + a.prompt + now - a.start, 0) / active.length + steps / 2;
    phases.push({ steps, rows: active.length, context });
    now = end;
    for (let i = active.length - 1; i >= 0; i--) if (active[i]!.end === end) active.splice(i, 1);
  }
  return joined(phases, now * FINE);
}

/** Neighbours joined until each has at least so many steps. */
function joined(phases: readonly Phase[], least: number): Phase[] {
  const out: Phase[] = [];
  for (const p of phases) {
    const last = out.at(-1);
    if (!last || last.steps >= least) {
      out.push(p);
      continue;
    }
    const steps = last.steps + p.steps, rows = (last.steps * last.rows + p.steps * p.rows) / steps;
    const context = (last.steps * last.rows * last.context + p.steps * p.rows * p.context) / (steps * rows);
    out[out.length - 1] = { steps, rows, context };
  }
  return out;
}

/** A function of two sizes, computed where a grid needs it and linear between. */
export class Surface {
  readonly #known = new Map<number, number>();

  /** @param f seconds at a point of the grid */
  constructor(readonly f: (rows: number, context: number) => number, readonly contexts: readonly number[]) {}

  at(rows: number, context: number): number {
    const low = 2 ** Math.floor(Math.log2(Math.max(1, rows))), up = Math.max(0, rows / low - 1);
    const j = Math.max(
      0,
      Math.min(this.contexts.length - 2, this.contexts.findIndex((c) => c > context) - 1),
    );
    const from = this.contexts[j]!, to = this.contexts[j + 1] ?? from;
    const share = to > from ? Math.max(0, (context - from) / (to - from)) : 0;
    const along = (r: number) =>
      (1 - share) * this.#get(r, j) + (share > 0 ? share * this.#get(r, j + 1) : 0);
    return (1 - up) * along(low) + (up > 0 ? up * along(2 * low) : 0);
  }

  #get(rows: number, j: number): number {
    const key = rows * this.contexts.length + j;
    let value = this.#known.get(key);
    if (value === undefined) this.#known.set(key, value = this.f(rows, this.contexts[j]!));
    return value;
  }
}
