/** Batch scalars that live from step to step. */
import { checkName } from "./fields.ts";

/** A number that `compute` reads and writes, kept over steps and checkpoints. */
export interface State<Name extends string = string> {
  readonly name: Name;
  readonly init: number;
}

/**
 * Declares a state: one number, `init` before the first step. Every call of a step reads the value that the step began
 * with; the one call that writes it sets the value of the next step. So the order of calls never matters.
 *
 * @throws TypeError for a name that is no identifier, RangeError for an `init` that is not finite
 * @example A running mean of the rewards as a baseline
 * ```ts
 * import { compute, perSequence, state } from "@baton/baton";
 *
 * const baseline = state("baseline", 0);
 * const centred = compute("centred", { rewards: perSequence }, (batch, now) => ({
 *   advantages: batch.rewards.sub(now.baseline),
 *   baseline: now.baseline.mul(0.9).add(batch.rewards.mean().mul(0.1)),
 * }), { states: [baseline] });
 * ```
 */
export function state<const Name extends string>(name: Name, init: number): State<Name> {
  checkName("state", name);
  if (!Number.isFinite(init)) {
    throw new RangeError(`Cannot start state "${name}" at ${init}: give a finite number`);
  }
  return { name, init };
}
