/** The optimizer: AdamW with decoupled weight decay (Loshchilov and Hutter 2019) after global-norm clipping. */
import type { AdamW } from "../../ir/graph.ts";
import { BYTES, type Value } from "../../ir/op.ts";
import type { Program } from "../../ir/program.ts";
import { axisNumber } from "../collectives.ts";
import { Builder } from "../builder.ts";
import { finish, named } from "../finish.ts";
import { again, firstOf, restOf, rowsAt, sumGradients, wholeOf } from "../gradient_sums.ts";
import { type Range, type Shard, trainedOf } from "../layout.ts";
import { parameters, tiedGradient } from "../models/transformer.ts";
import { NO_ROWS, reservedBytes } from "../shape.ts";
import { ALL, ownElements, type OwnPiece, ownPieces, type Share } from "../zero.ts";

export interface UpdateOptions extends Partial<Share> {
  /** The last backward pass has summed what it could (`compileTrain`, `sums`). */
  readonly summed?: boolean;
  /** Bytes of fence around every arena buffer, for tests. */
  readonly guard?: number;
}

/**
 * Updates every parameter and its moments in place. `inputs/hyper` is the learning rate, 1 − β₁ᵗ and 1 − β₂ᵗ of update t;
 * `outputs/norm` is the global gradient norm before clipping. Where the norm is not finite nothing is changed.
 *
 * Gradients of ranks are added up before; with ZeRO every rank of the data-parallel group updates its part only, and the parts
 * are gathered behind.
 */
export function compileUpdate(shard: Shard, optimizer: AdamW, o: UpdateOptions = {}): Program {
  const share = { ...ALL, ...o }, b = new Builder((v) => reservedBytes(v, NO_ROWS));
  const hyper = b.input("hyper", [3]);
  for (const p of shard.parameters) b.parameter(p);
  const tied = tiedGradient(shard);
  for (const p of trainedOf(shard)) {
    b.parameter(p, "grads");
    if (tied?.name.endsWith(p.name)) b.parameter(tied, "grads");
  }
  if (!o.summed) sumGradients(b, shard, share);
  else for (const bucket of restOf(shard)) sumGradients(b, shard, share, bucket);
  const pieces = ownPieces(shard, share), gradients = new Map(pieces.map((p) => [p, gradientOf(b, p)]));
  const norm = gradientNorm(b, shard, share, gradients);
  for (const [piece, gradient] of gradients) update(b, optimizer, piece, gradient, hyper, norm);
  if (share.zero && share.dp > 1) {
    const at = (range: Range) => rowsAt(b, shard, "params", range), whole = at(wholeOf(shard));
    b.emit("allGatherRows", [at(ownElements(shard, share))], [whole], [...whole.shape, axisNumber("dp")]);
  }
  b.output("norm", norm);
  return finish(named(`${shard.head} update${o.summed ? " of sums" : ""}`, shard), b, b.ops, {
    ...o,
    maxima: NO_ROWS,
  });
}

const gradientOf = (b: Builder, { parameter: p, from, to }: OwnPiece): Value => {
  const offset = (firstOf(p) + from) * BYTES[p.gradient];
  return b.value(p.name, [to - from], { dtype: p.gradient, place: { segment: "grads", offset } });
};

/** Every gradient is counted by one rank; squares are added up by parameter, so that the order does not depend on the plan. */
function gradientNorm(
  b: Builder,
  shard: Shard,
  share: Share,
  gradients: ReadonlyMap<OwnPiece, Value>,
): Value {
  const index = new Map(parameters(shard.config, shard.head).map((p, i) => [p.name, i])), count = index.size;
  const counted = [...gradients].filter(([{ parameter }]) =>
    parameter.counts && (share.zero || share.rank === 0)
  );
  const attrs = counted.flatMap(([{ parameter, from, to }]) => [to - from, index.get(parameter.name)!]);
  const own = b.one("squareSums", counted.map(([, g]) => g), [2 * count], [count, ...attrs]);
  const ranks = share.dp * shard.tp * shard.stages;
  const all = ranks === 1 ? own : b.one("sumDoubles", [own], own.shape, [count, axisNumber("world")]);
  return b.one("norm", [all], [1], [count]);
}

function update(
  b: Builder,
  { betas: [beta1, beta2], eps, weightDecay, decay, clip }: AdamW,
  { parameter: p, from, to, m, v, master }: OwnPiece,
  gradient: Value,
  hyper: Value,
  norm: Value,
): void {
  const n = to - from, place = { segment: "params", offset: p.offset + BYTES[p.dtype] * from } as const;
  const own = b.value(p.name, [n], { dtype: p.dtype, place });
  const places = [
    master === null ? own : b.declare("moments", `master.${p.name}`, [n], { offset: master }),
    b.declare("moments", `m.${p.name}`, [n], { offset: m }),
    b.declare("moments", `v.${p.name}`, [n], { offset: v }),
  ] as const;
  const updated = [...places, ...master === null ? [] : [own]].map((x) => again(b, x));
  const [w, first, second] = places, rate = decay === "all" || p.matrix ? weightDecay : 0;
  b.emit("adamw", [w, gradient, first, second, hyper, norm], updated, [
    ...[n, beta1, beta2, eps, rate, clip],
    Number(master !== null),
  ]);
}
