/** Inference: what a model says about given sequences, and the part of it that training shares. */
import type { Head } from "../../ir/graph.ts";
import { dim, type Maxima, type Value } from "../../ir/op.ts";
import type { Program } from "../../ir/program.ts";
import { Builder } from "../builder.ts";
import { finish, named } from "../finish.ts";
import type { Shard } from "../layout.ts";
import { forward, Model } from "../models/transformer.ts";
import { reservedBytes } from "../shape.ts";

const OUTPUTS = {
  lm: ["logprobs", "entropy"],
  value: ["values", "finalValues"],
  reward: ["rewards"],
} as const;
export type InferOutput = typeof OUTPUTS[Head][number];

export interface InferOptions {
  readonly maxima: Maxima;
  readonly outputs: readonly InferOutput[];
  /** Kept tokens of an action (lm): log-probabilities and entropies are over these. 0 and absent for the whole vocabulary. */
  readonly kept?: number;
  /** Bytes of fence around every arena buffer, for tests. */
  readonly guard?: number;
}

/**
 * Packed sequences → `outputs/NAME` for each name asked for: log-probabilities and entropies of the actions (lm), values
 * before each action and after the last token (value), one reward a sequence (reward). In a pipeline, the last stage says
 * that; the others hand on `outputs/y`, which is `inputs/x` of the next.
 *
 * @throws TypeError when the head has no such output
 */
export function compileInfer(shard: Shard, o: InferOptions): Program {
  const b = new Builder((v) => reservedBytes(v, o.maxima)), { x, model } = packedForward(b, shard, o.maxima);
  if (shard.last) {
    const outputs = headOutputs(model, x, o.outputs, o);
    for (const name of o.outputs) b.output(name, outputs[name]!);
  } else b.output("y", x);
  return finish(named(`${shard.head} infer`, shard), b, b.ops, o);
}

/** The forward pass over packed sequences. */
export function packedForward(b: Builder, shard: Shard, maxima: Maxima) {
  const model = new Model(shard, b), rows = dim("tokens"), { config } = shard;
  const positions = Math.min(config.maxPositions, Math.max(1, maxima.tokens));
  const ends = b.input("ends", [dim("sequences")], "i32");
  const sequences = {
    ids: shard.first ? b.input("ids", [rows], "i32") : undefined,
    positions: b.input("positions", [rows], "i32"),
    ropeTable: b.declare("constants", "rope", [positions, config.headDim]),
  };
  return { model, ...forward(model, sequences, (_, q, k, v, heads) => b.attention(q, k, v, ends, heads)) };
}

/**
 * The outputs of a head that are asked for; x is the residual stream after the last layer. `kept` as in {@link InferOptions}; where
 * `keepLogits`, a vocabulary head leaves its logits in memory for the backward pass.
 */
export function headOutputs(
  m: Model,
  x: Value,
  wanted: readonly string[],
  { kept = 0, keepLogits }: { readonly kept?: number | undefined; readonly keepLogits?: boolean },
): Readonly<Record<string, Value>> {
  const { b, shard: { head, tp } } = m, known: readonly string[] = OUTPUTS[head];
  const wrong = wanted.filter((name) => !known.includes(name));
  if (wrong.length) {
    throw new TypeError(
      `Cannot compile a ${head} head: it has ${known.join(" and ")}, not ${wrong.join(", ")}`,
    );
  }
  const rows = () => b.input("rows", [dim("actions")], "i32");
  const lastRows = () => b.input("lastRows", [dim("sequences")], "i32");
  // A vocabulary is shared out over ranks; one output is not worth it, and every rank computes it.
  const all = m.gather(x, { alike: head !== "lm" });
  const hidden = (at: Value) => m.norm(b.gatherRows(all, at), "model.norm");
  const score = (at: Value) => b.matmul(hidden(at), m.headMatrix, "f32");
  switch (head) {
    case "lm": {
      const states = hidden(rows()), targets = b.input("targets", [dim("actions")], "i32");
      const temperature = b.input("inverseTemperature", [1]), withEntropy = wanted.includes("entropy");
      const part = tp > 1 ? m.part : undefined;
      if (kept) {
        const lists = b.input("kept", [dim("actions"), kept], "i32");
        return defined(b.keptLogprob(states, m.headMatrix, lists, targets, temperature, withEntropy, part));
      }
      return defined(
        b.linearLogprob(states, m.headMatrix, targets, temperature, withEntropy, part, keepLogits),
      );
    }
    case "value":
      return {
        ...(wanted.includes("values") && { values: score(rows()) }),
        ...(wanted.includes("finalValues") && { finalValues: score(lastRows()) }),
      };
    case "reward":
      return { rewards: score(lastRows()) };
  }
}

const defined = (
  o: { readonly logprobs: Value; readonly entropy: Value | undefined },
): Record<string, Value> =>
  o.entropy ? { logprobs: o.logprobs, entropy: o.entropy } : { logprobs: o.logprobs };
