/** The optimizer: AdamW with decoupled weight decay (Loshchilov and Hutter 2019) after global-norm clipping. */
import type { AdamW, Head } from "../../ir/graph.ts";
import type { Maxima } from "../../ir/op.ts";
import type { Program } from "../../ir/program.ts";
import { Builder } from "../builder.ts";
import { finish } from "../finish.ts";
import type { ModelConfig } from "../models/config.ts";
import { parameterBytes, parameters, tiedGradient } from "../models/transformer.ts";
import { reservedBytes } from "../shape.ts";

const NO_ROWS: Maxima = { one: 1, tokens: 0, actions: 0, sequences: 0, groups: 0, pairs: 0 };

/**
 * Updates every parameter and its moments in place. `inputs/hyper` is the learning rate, 1 − β₁ᵗ and 1 − β₂ᵗ of update t;
 * `outputs/norm` is the global gradient norm before clipping. Where the norm is not finite nothing is changed.
 */
export function compileUpdate(
  config: ModelConfig,
  head: Head,
  optimizer: AdamW,
  o: { readonly guard?: number } = {},
): Program {
  const { betas: [beta1, beta2], eps, weightDecay, decay, clip } = optimizer;
  const b = new Builder((v) => reservedBytes(v, NO_ROWS)), all = parameters(config, head);
  const bytes = parameterBytes(all), hyper = b.input("hyper", [3]), tied = tiedGradient(all);
  const gradients = all.map((p) => {
    const g = b.parameter(p, "grads");
    if (!tied?.name.endsWith(p.name)) return g;
    return b.sum(g, b.parameter(tied, "grads"), b.value(g.name, g.shape, { place: g.place }));
  });
  const norm = b.one("gradNorm", gradients, [1], all.map((p) => p.elements));
  all.forEach((p, i) => {
    const places = [
      b.parameter(p),
      b.parameter(p, "moments", `m.${p.name}`),
      b.parameter(p, "moments", `v.${p.name}`, bytes),
    ];
    const [w, m, v] = places as [typeof norm, typeof norm, typeof norm];
    const updated = places.map((x) => b.value(x.name, x.shape, { place: x.place }));
    const rate = decay === "all" || p.matrix ? weightDecay : 0;
    b.emit("adamw", [w, gradients[i]!, m, v, hyper, norm], updated, [
      p.elements,
      beta1,
      beta2,
      eps,
      rate,
      clip,
    ]);
  });
  b.output("norm", norm);
  return finish(`${head} update`, b, b.ops, { ...o, maxima: NO_ROWS });
}
