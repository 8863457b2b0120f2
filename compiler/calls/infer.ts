/** Inference: what a model says about given sequences, and the part of it that training shares. */
import type { Head } from "../../ir/graph.ts";
import { dim, type Maxima, type Value } from "../../ir/op.ts";
import type { Program } from "../../ir/program.ts";
import { Builder } from "../builder.ts";
import { finish } from "../finish.ts";
import type { ModelConfig } from "../models/config.ts";
import { forward, hiddenRows, Model } from "../models/transformer.ts";
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
  /** Bytes of fence around every arena buffer, for tests. */
  readonly guard?: number;
}

/**
 * Packed sequences → `outputs/NAME` for each name asked for: log-probabilities and entropies of the actions (lm), values
 * before each action and after the last token (value), one reward a sequence (reward).
 *
 * @throws TypeError when the head has no such output
 */
export function compileInfer(config: ModelConfig, head: Head, o: InferOptions): Program {
  const b = new Builder((v) => reservedBytes(v, o.maxima)),
    { x, model } = packedForward(b, config, head, o.maxima);
  const outputs = headOutputs(model, x, o.outputs);
  for (const name of o.outputs) b.output(name, outputs[name]!);
  return finish(`${head} infer`, b, b.ops, o);
}

/** The forward pass over packed sequences. */
export function packedForward(b: Builder, config: ModelConfig, head: Head, maxima: Maxima) {
  const model = new Model(config, head, b), rows = dim("tokens");
  const positions = Math.min(config.maxPositions, Math.max(1, maxima.tokens));
  const ends = b.input("ends", [dim("sequences")], "i32");
  const sequences = {
    ids: b.input("ids", [rows], "i32"),
    positions: b.input("positions", [rows], "i32"),
    ropeTable: b.declare("constants", "rope", [positions, config.headDim]),
  };
  return { model, ...forward(model, sequences, (_, q, k, v, heads) => b.attention(q, k, v, ends, heads)) };
}

/** The outputs of a head that are asked for. */
export function headOutputs(m: Model, x: Value, wanted: readonly string[]): Readonly<Record<string, Value>> {
  const { b } = m, known: readonly string[] = OUTPUTS[m.head];
  const wrong = wanted.filter((name) => !known.includes(name));
  if (wrong.length) {
    throw new TypeError(
      `Cannot compile a ${m.head} head: it has ${known.join(" and ")}, not ${wrong.join(", ")}`,
    );
  }
  const rows = () => b.input("rows", [dim("actions")], "i32");
  const lastRows = () => b.input("lastRows", [dim("sequences")], "i32");
  const score = (at: Value) => b.matmul(hiddenRows(m, x, at), m.headMatrix);
  switch (m.head) {
    case "lm": {
      const hidden = hiddenRows(m, x, rows()), targets = b.input("targets", [dim("actions")], "i32");
      const temperature = b.input("inverseTemperature", [1]), withEntropy = wanted.includes("entropy");
      const { logprobs, entropy } = b.linearLogprob(hidden, m.headMatrix, targets, temperature, withEntropy);
      return entropy ? { logprobs, entropy } : { logprobs };
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
