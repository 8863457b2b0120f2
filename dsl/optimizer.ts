/** Optimizers as values. */
import type { AdamW, Ema } from "../ir/graph.ts";
import { between, positive, refuse, whole } from "./options.ts";
import { at, callSite } from "./site.ts";

/**
 * AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019) and clipping of the global gradient norm.
 *
 * @param options `lr` is the peak learning rate, and the only one without a default; see {@link AdamW} for the others
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { adamw } from "@baton/baton";
 *
 * const optimizer = adamw({ lr: 1e-6, warmup: 10, schedule: "cosine", minRatio: 0.1 });
 * ```
 */
export function adamw(options: { readonly lr: number } & Partial<Omit<AdamW, "name" | "lr">>): AdamW {
  const o: AdamW = {
    name: "adamw",
    betas: [0.9, 0.999],
    eps: 1e-8,
    weightDecay: 0,
    decay: "matrices",
    clip: 1,
    schedule: "constant",
    warmup: 0,
    minRatio: 0,
    ...options,
  };
  const [b1, b2] = o.betas;
  refuse(`make adamw${at(callSite())}`, [
    !(o.lr >= 0 && o.lr < Infinity) && `lr is ${o.lr}, it must be a number, 0 or more`,
    !(b1 >= 0 && b1 < 1 && b2 >= 0 && b2 < 1) &&
    `betas are ${b1} and ${b2}, both must be at least 0 and below 1`,
    positive("eps", o.eps),
    !(o.weightDecay >= 0 && o.weightDecay < Infinity) &&
    `weightDecay is ${o.weightDecay}, it must be a number, 0 or more`,
    !["matrices", "all"].includes(o.decay) && `decay is "${o.decay}", it must be "matrices" or "all"`,
    !(o.clip >= 0 && o.clip < Infinity) && `clip is ${o.clip}, it must be 0 (off) or more`,
    !["constant", "linear", "cosine"].includes(o.schedule) &&
    `schedule is "${o.schedule}", it must be "constant", "linear" or "cosine"`,
    whole("warmup", o.warmup),
    between("minRatio", o.minRatio, 0, 1),
  ]);
  return o;
}

/**
 * What a model follows instead of being trained: after each train call on the model `of`, its weights become
 * eta · of + (1 − eta) · its own, an exponential moving average (Mei et al. 2024 do so to the reference model of PPO).
 *
 * @param of key of a model with an optimizer, in the same call of `models`
 * @throws RangeError when eta is not above 0 and at most 1
 * @example
 * ```ts
 * import { adamw, ema, models, policyModel } from "@baton/baton";
 *
 * const { actor, ref } = models({
 *   actor: policyModel("models/Qwen3-0.6B", adamw({ lr: 1e-6 })),
 *   ref: policyModel("models/Qwen3-0.6B", ema("actor", { eta: 0.001 })),
 * });
 * ```
 */
export function ema(of: string, { eta }: { readonly eta: number }): Ema {
  refuse(`make ema${at(callSite())}`, [
    (typeof of !== "string" || of === "") && "it follows no model, give the key of one",
    !(eta > 0 && eta <= 1) && `eta is ${eta}, it must be above 0 and at most 1`,
  ]);
  return { of, eta };
}
