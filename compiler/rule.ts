/** What a derivative rule is: a function from the gradients of an operation's outputs to those of its inputs. */
import type { Op, Value } from "../ir/op.ts";
import type { Builder } from "./builder.ts";

/** What a rule sees: the gradients of the outputs, and a sink for the gradient of each input. */
export interface Backward {
  readonly b: Builder;
  readonly op: Op;
  /** Gradient of output i; undefined when the loss does not depend on it. */
  readonly gradient: (i: number) => Value | undefined;
  /** Gradient of output 0, which a rule with one output can rely on. */
  readonly dy: Value;
  /** Whether input i needs a gradient. */
  readonly wants: (i: number) => boolean;
  /** Adds a finished gradient to input i: one more pointwise sum when there already is one. */
  readonly add: (i: number, gradient: Value) => void;
  /**
   * For kernels that continue a sum: `make(prior, out)` must emit prior + gradient into `out`; `prior` is empty or the
   * gradient so far. No temporary, no extra pass, and for a parameter the chain of additions runs on over micro-batches.
   */
  readonly accumulate: (i: number, make: (prior: readonly Value[], out: Value) => void) => void;
}
export type Rule = (c: Backward) => void;
