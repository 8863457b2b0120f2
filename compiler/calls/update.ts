/** The optimizer: AdamW with decoupled weight decay (Loshchilov and Hutter 2019) after global-norm clipping. */
import type { AdamW } from "../../ir/graph.ts";
import { BYTES, type FloatType, type Segment, type Value } from "../../ir/op.ts";
import type { Program } from "../../ir/program.ts";
import { axisNumber } from "../collectives.ts";
import { Builder } from "../builder.ts";
import { finish, named } from "../finish.ts";
import { again, firstOf, MOST_ELEMENTS, restOf, rowsAt, sumGradients, wholeOf } from "../gradient_sums.ts";
import { type LocalParameter, type Range, type Shard, trainedOf } from "../layout.ts";
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
  for (const p of pieces) declareMoments(b, p);
  for (const run of runs(pieces, optimizer)) update(b, optimizer, run, hyper, norm);
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

const rateOf = ({ decay, weightDecay }: AdamW, { matrix }: LocalParameter): number =>
  decay === "all" || matrix ? weightDecay : 0;

/** Elements from the first to the last of neighbours. */
const spanOf = (first: OwnPiece, last: OwnPiece): number =>
  firstOf(last.parameter) + last.to - firstOf(first.parameter) - first.from;

/** Pieces that lie side by side and have one weight decay, which one operation updates. What lies between them is zero and stays zero. */
function runs(pieces: readonly OwnPiece[], optimizer: AdamW): OwnPiece[][] {
  const all: OwnPiece[][] = [];
  for (const piece of pieces) {
    const run = all.at(-1), rate = rateOf(optimizer, piece.parameter);
    const joins = run && rateOf(optimizer, run[0]!.parameter) === rate &&
      spanOf(run[0]!, piece) <= MOST_ELEMENTS;
    if (joins) run.push(piece);
    else all.push([piece]);
  }
  return all;
}

/** Gives the moments and the master copy of a piece their names and places. */
function declareMoments(b: Builder, { parameter: { name }, from, to, m, v, master }: OwnPiece): void {
  const declare = (what: string, offset: number) =>
    b.declare("moments", `${what}.${name}`, [to - from], { offset });
  if (master !== null) declare("master", master);
  declare("m", m);
  declare("v", v);
}

function update(
  b: Builder,
  optimizer: AdamW,
  run: readonly OwnPiece[],
  hyper: Value,
  norm: Value,
): void {
  const { parameter: p, from, m, v, master } = run[0]!, last = run.at(-1)!;
  const n = spanOf(run[0]!, last);
  const at = (segment: Segment, dtype: FloatType, offset: number) =>
    b.value(run.length === 1 ? p.name : `${p.name} … ${last.parameter.name}`, [n], {
      dtype,
      place: { segment, offset },
    });
  const own = at("params", p.dtype, p.offset + BYTES[p.dtype] * from);
  const gradient = at("grads", p.gradient, (firstOf(p) + from) * BYTES[p.gradient]);
  const places = [
    master === null ? own : at("moments", "f32", master),
    at("moments", "f32", m),
    at("moments", "f32", v),
  ] as const;
  const updated = [...places, ...master === null ? [] : [own]].map((x) => again(b, x));
  const [w, first, second] = places, { betas: [beta1, beta2], eps, clip } = optimizer;
  b.emit("adamw", [w, gradient, first, second, hyper, norm], updated, [
    ...[n, beta1, beta2, eps, rateOf(optimizer, p), clip],
    Number(master !== null),
  ]);
}
