/** Advantages of actions: generalised estimates with a critic, returns without one, whitening. */
import { type PerSequence, perSequence, type PerToken, perToken, type TokenIds } from "../../ir/field.ts";
import { compute } from "../compute.ts";
import type { CallFlow } from "../flow.ts";
import { between, refuse } from "../options.ts";
import { at, callSite } from "../site.ts";
import type { Tensor } from "../tensor.ts";

/** (x − mean) ÷ √(variance + 1e-8) over every action of the step, with the unbiased variance. */
function whitened(x: Tensor<"token">): Tensor<"token"> {
  const centred = x.sub(x.mean()), sum = centred.square().sum();
  const count = x.ge(x).sum(); // every value is at least itself
  return centred.div(sum.div(count.sub(1).max(1)).add(1e-8).sqrt());
}

/**
 * Generalised advantage estimation (Schulman et al. 2016, eq. 16). Reads `tokenRewards` and `values`; writes `advantages`
 * and `returns` (advantages before whitening + values).
 *
 * @param options `gamma`, `lambda`; `whiten`: advantages with mean 0 and variance 1 over the step; `bootstrapTruncated`: a
 *   response that was cut is worth `finalValues` after its last action instead of 0 (then it reads `finalValues`, from
 *   `infer({ final: true })`, and `finished`)
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { gae } from "@baton/baton";
 *
 * const estimates = gae({ gamma: 1, lambda: 0.95, whiten: true });
 * ```
 */
export function gae(
  options: GaeOptions & { readonly bootstrapTruncated?: false },
): CallFlow<GaeReads, Estimates>;
export function gae(
  options: GaeOptions & { readonly bootstrapTruncated: true },
): CallFlow<BootstrapReads, Estimates>;
export function gae(
  options: GaeOptions & { readonly bootstrapTruncated?: boolean },
): CallFlow<GaeReads, Estimates> | CallFlow<BootstrapReads, Estimates> {
  const { gamma, lambda, whiten = false } = options, discount = { gamma, lambda };
  refuse(`make gae${at(callSite())}`, [between("gamma", gamma, 0, 1), between("lambda", lambda, 0, 1)]);
  const results = (estimates: Tensor<"token">, values: Tensor<"token">) => ({
    advantages: whiten ? whitened(estimates) : estimates,
    returns: estimates.add(values),
  });
  const reads = { tokenRewards: perToken, values: perToken };
  if (!options.bootstrapTruncated) {
    return compute(
      "gae",
      reads,
      (batch) => results(batch.tokenRewards.gae(batch.values, discount), batch.values),
    );
  }
  return compute("gae", { ...reads, finalValues: perSequence, finished: perSequence }, (batch) => {
    const final = batch.finished.where(0, batch.finalValues);
    return results(batch.tokenRewards.gae(batch.values, { ...discount, final }), batch.values);
  });
}

export interface GaeOptions {
  /** Discount per action. */
  readonly gamma: number;
  /** Weight of longer estimates: 0 is one-step, 1 is the whole return. */
  readonly lambda: number;
  readonly whiten?: boolean;
}
type GaeReads = { readonly tokens: TokenIds; readonly tokenRewards: PerToken; readonly values: PerToken };
type BootstrapReads = GaeReads & { readonly finalValues: PerSequence; readonly finished: PerSequence };
type Estimates = { readonly advantages: PerToken; readonly returns: PerToken };

/**
 * Whitens a per-token field over all actions of the step: mean 0, unbiased variance 1. Reads `advantages`, writes
 * `whitenedAdvantages`; `.from()` and `.as()` choose other fields.
 *
 * @example
 * ```ts
 * import { ppoClip, whiten } from "@baton/baton";
 *
 * const rewards = whiten().from({ advantages: "tokenRewards" }).as("whitenedRewards");
 * ```
 */
export const whiten = (): CallFlow<
  { readonly tokens: TokenIds; readonly advantages: PerToken },
  { readonly whitenedAdvantages: PerToken }
> =>
  compute(
    "whiten",
    { advantages: perToken },
    ({ advantages }) => ({ whitenedAdvantages: whitened(advantages) }),
  );

/**
 * Advantages of actions without a critic: the discounted sum of the rewards from an action on (Hu 2025, "REINFORCE++", eq.
 * 4), whitened over the step unless told otherwise. Reads `tokenRewards` (from {@link shapedRewards}), writes `advantages`,
 * for {@link ppoClip}.
 *
 * @param options `gamma`: discount per action, 1 where not given; `whiten`: true where not given
 * @throws RangeError for a `gamma` that is not from 0 to 1
 * @example
 * ```ts
 * import { returnsToGo, shapedRewards } from "@baton/baton";
 *
 * const advantages = shapedRewards({ beta: 0.01 }).then(returnsToGo());
 * ```
 */
export function returnsToGo(
  options: { readonly gamma?: number; readonly whiten?: boolean } = {},
): CallFlow<
  { readonly tokens: TokenIds; readonly tokenRewards: PerToken },
  { readonly advantages: PerToken }
> {
  const { gamma = 1, whiten = true } = options;
  refuse(`make returnsToGo${at(callSite())}`, [between("gamma", gamma, 0, 1)]);
  return compute("returnsToGo", { tokenRewards: perToken }, ({ tokenRewards }) => {
    // With every value 0 and λ = 1, the generalised estimate is the return (Schulman et al. 2016, eq. 18).
    const returns = tokenRewards.gae(tokenRewards.mul(0), { gamma, lambda: 1 });
    return { advantages: whiten ? whitened(returns) : returns };
  });
}
