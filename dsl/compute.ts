/** Calls that belong to no model: traced arithmetic on fields, and scores in plain TypeScript. */
import type { Expr } from "../ir/expr.ts";
import { type PerSequence, perSequence, type PerTokenOf, type Schema, tokenIds } from "../ir/field.ts";
import type { Ports } from "../ir/graph.ts";
import type { ScoreFunction } from "./draft.ts";
import { checkName, type Numbers, type OneTokenField, type TokenFieldOf, type TokensFor } from "./fields.ts";
import { CallFlow } from "./flow.ts";
import { at, callSite } from "./site.ts";
import type { State } from "./state.ts";
import type { Tensor } from "./tensor.ts";
import { type AnyTensor, type Symbols, tokenFieldOf, trace } from "./trace.ts";

/** Names known to the type checker: results of these names are state writes, the others are fields. */
type StateNames<S extends readonly State[]> = string extends S[number]["name"] ? never : S[number]["name"];
type Current<S extends readonly State[], Of extends string> = {
  readonly [K in S[number]["name"]]: Tensor<"batch", Of>;
};
type Made<R, S extends readonly State[], Of extends string> = {
  readonly [K in Exclude<keyof R, StateNames<S>>]: R[K] extends Tensor<infer G, string>
    ? G extends "token" ? PerTokenOf<Of> : { readonly per: G; readonly dtype: "f32" }
    : never;
};
type StatesAreScalars<R, S extends readonly State[], Of extends string> = {
  readonly [K in keyof R & StateNames<S>]: Tensor<"batch", Of>;
};

/**
 * Traced arithmetic between calls, over the whole step batch: `mean()` and `sum()` run over every sequence of the step. `fn`
 * runs once, while the script is read, and returns the new fields by name.
 *
 * @param name id of the call in plans and logs
 * @param reads the fields that `fn` reads, with their types
 * @param options `states` that `fn` reads (second argument) and writes (results of the same name)
 * @throws TypeError when the reads or the results are not numbers of one token field
 * @example Advantages relative to the other samples of the same prompt
 * ```ts
 * import { compute, perSequence } from "@baton/baton";
 *
 * const groupAdvantages = compute("groupAdvantages", { rewards: perSequence }, ({ rewards }) => ({
 *   advantages: rewards.sub(rewards.groupMean()).div(rewards.groupStd({ eps: 1e-4 })),
 * }));
 * ```
 */
export function compute<
  const In extends Schema,
  R extends
    & StatesAreScalars<R, S, TokenFieldOf<In>>
    & Readonly<Record<string, Tensor<"token" | "sequence" | "pair" | "batch", TokenFieldOf<In>>>>,
  const S extends readonly State[] = readonly [],
>(
  name: string,
  reads: In & OneTokenField<In> & Numbers<In>,
  fn: (batch: Symbols<In, TokenFieldOf<In>>, state: Current<S, TokenFieldOf<In>>) => R,
  options: { readonly states?: S } = {},
): CallFlow<
  In & TokensFor<In & Made<R, S, TokenFieldOf<In>>, TokenFieldOf<In>>,
  Made<R, S, TokenFieldOf<In>>
> {
  checkName("call", name);
  const site = callSite(), states = options.states ?? [], stateNames = states.map((s) => s.name);
  const what = `compute "${name}"`;
  const both = stateNames.filter((s) => s in reads);
  if (both.length) {
    throw new TypeError(
      `Cannot trace ${what}: ${both.join(", ")} is a field and a state, rename one${at(site)}`,
    );
  }
  const { ops, outputs } = trace(
    { what, site, batch: reads, states: stateNames },
    ({ batch, state }) => fn(batch as never, state as never) as Readonly<Record<string, AnyTensor>>,
  );
  const output = (name: string) => stateNames.includes(name) ? `state.${name}` : name;
  const expr = {
    ops,
    outputs: Object.fromEntries(Object.entries(outputs).map(([name, i]) => [output(name), i])),
  };
  const of = tokenFieldOf(reads), made = outputTypes(expr, of);
  for (const field of Object.keys(made)) checkName("field", field);
  const written = stateNames.filter((s) => expr.outputs[`state.${s}`] !== undefined);
  for (const s of written) {
    if (expr.ops[expr.outputs[`state.${s}`]!]!.per !== "batch") {
      throw new TypeError(
        `Cannot trace ${what}: state "${s}" is one number, end it with mean() or sum()${at(site)}`,
      );
    }
  }
  const tokens: Schema = expr.ops.some((op) => op.per === "token") ? { [of]: tokenIds } : {};
  const identity = (schema: Schema): Ports =>
    Object.fromEntries(Object.keys(schema).map((field) => [field, field]));
  return new CallFlow({
    name,
    named: false,
    call: {
      kind: "compute",
      expr,
      reads: { ...(of in tokens && { tokens: of }), ...identity(reads) },
      writes: identity(made),
      states: Object.fromEntries(written.map((s) => [s, `state.${s}`])),
      ...(site && { site }),
    },
    reads: { ...tokens, ...reads },
    writes: made,
    states: Object.fromEntries(states.map((s) => [s.name, s.init])),
  });
}

/** Types of the fields among an expression's outputs. */
function outputTypes(expr: Expr, of: string): Schema {
  return Object.fromEntries(
    Object.entries(expr.outputs).filter(([name]) => !name.startsWith("state.")).map(([name, i]) => {
      const { per } = expr.ops[i]!;
      return [name, per === "token" ? { per, dtype: "f32", of } : { per, dtype: "f32" }];
    }),
  );
}

type ScoreField = { readonly per: "sequence"; readonly dtype: "text" | "f32" };
type Sample<S extends Schema> = { readonly [K in keyof S]: S[K]["dtype"] extends "text" ? string : number };

/**
 * A number per sequence from plain TypeScript, one sample at a time: a verifiable reward, a length penalty, a call to a
 * judge. Runs on the host and may be asynchronous: samples are awaited side by side, in one worker, so that their waiting
 * overlaps and their computing uses one core. Importing the script must have no effects, because the worker imports it.
 *
 * @param field the field that it writes
 * @param reads texts and per-sequence numbers that `fn` sees
 * @throws TypeError when the reads are neither text nor numbers per sequence
 * @example
 * ```ts
 * import { score, text } from "@baton/baton";
 *
 * const correct = score("rewards", { response: text, answer: text }, ({ response, answer }) =>
 *   response.trim().endsWith(answer) ? 1 : 0);
 * ```
 */
export function score<const K extends string, const In extends { readonly [P in string]: ScoreField }>(
  field: K,
  reads: In,
  fn: (sample: Sample<In>) => number | Promise<number>,
): CallFlow<In, { readonly [P in K]: PerSequence }> {
  const site = callSite();
  checkName("field", field);
  if (typeof fn !== "function") {
    throw new TypeError(`Cannot score "${field}": give a function of a sample${at(site)}`);
  }
  const wrong = Object.entries(reads).filter(([, t]) =>
    t.per !== "sequence" || !["text", "f32"].includes(t.dtype)
  );
  if (wrong.length) {
    throw new TypeError(
      `Cannot score "${field}": ${
        wrong.map(([k]) => k).join(", ")
      } is neither text nor a number per sequence${at(site)}`,
    );
  }
  return new CallFlow({
    name: `score.${field}`,
    named: false,
    call: {
      kind: "score",
      reads: Object.fromEntries(Object.keys(reads).map((f) => [f, f])),
      writes: { [field]: field },
      ...(site && { site }),
    },
    reads,
    writes: { [field]: perSequence },
    score: fn as ScoreFunction,
  });
}
