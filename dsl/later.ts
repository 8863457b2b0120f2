/**
 * What a later version runs and this one only types, so that scripts and their wiring can be written now: tools during
 * generation, the kept set of truncated sampling, selection within a group, and refilling (dynamic sampling). Using them throws.
 */
import type { PerSequence, Schema } from "../ir/field.ts";
import type { None } from "./fields.ts";
import type { CallFlow, Flow } from "./flow.ts";
import { at, callSite } from "./site.ts";

/** A function that the model may call between turns; what it returns is inserted as tokens that are no actions. */
export interface Tool {
  readonly name: string;
  readonly description: string;
  /** JSON schema of the arguments. */
  readonly parameters: Readonly<Record<string, unknown>>;
  readonly run: (args: Readonly<Record<string, unknown>>) => string | Promise<string>;
}

/** Options of `generate` that a later version has. */
export interface LaterOptions {
  readonly tools?: readonly Tool[];
  /** Most assistant turns of one sample. */
  readonly maxTurns?: number;
  /**
   * Stores which tokens top-k and top-p kept at each action, so that training renormalizes over the same set and ratios are
   * not biased.
   */
  readonly keepSampledMask?: boolean;
}

const notYet = (action: string, instead: string, site: string | undefined): RangeError =>
  new RangeError(`Cannot ${action}: it is not in this version of Baton, ${instead}${at(site)}`);

export function refuseLater(options: LaterOptions, site: string | undefined): void {
  if (options.tools?.length || (options.maxTurns ?? 1) !== 1) {
    throw notYet("generate with tools", "generate one turn and score its text", site);
  }
  if (options.keepSampledMask) {
    throw notYet("generate with keepSampledMask", "sample without topK and topP where you train", site);
  }
}

/**
 * Keeps `keep` samples of each group: those with the largest values of `by`, or the best and the worst as a pair.
 *
 * @throws RangeError always: not in this version
 * @example
 * ```ts
 * import { select } from "@baton/baton";
 *
 * const bestAndWorst = () => select({ by: "rewards", keep: "bestAndWorst" });
 * ```
 */
export function select<const By extends string>(
  _options: { readonly by: By; readonly keep: number | "bestAndWorst" },
): CallFlow<{ readonly [K in By]: PerSequence }, None> {
  throw notYet("select samples of a group", "weight them in compute()", callSite());
}

/**
 * Repeats a flow until every group of the step passes `until` (a per-sequence field that is not zero) or `maxRounds` are
 * over: dynamic sampling.
 *
 * @throws RangeError always: not in this version
 * @example
 * ```ts
 * import { type Flow, type perSequence, refill, type text } from "@baton/baton";
 *
 * type Judged = Flow<{ readonly prompt: typeof text }, { readonly informative: typeof perSequence }>;
 * const twice = (rollout: Judged) => refill(rollout, { until: "informative", maxRounds: 2 });
 * ```
 */
export function refill<In extends Schema, Out extends Schema>(
  _flow: Flow<In, Out>,
  _options: {
    readonly until: { [K in keyof Out]: Out[K] extends PerSequence ? K : never }[keyof Out];
    readonly maxRounds: number;
  },
): Flow<In, Out> {
  throw notYet("refill a batch", "raise the batch instead", callSite());
}
