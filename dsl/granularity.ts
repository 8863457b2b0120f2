/** Types about how many values there are of what: which may meet in one operation. */
import type { Granularity } from "../ir/field.ts";
import type { FieldError } from "./fields.ts";

/** What may stand beside a value of granularity G: its own kind, a batch scalar, and beside a batch scalar anything. */
type Beside<G extends Granularity> = "batch" extends G ? Granularity : G | "batch";
/** A sentence for the editor where H may not stand beside G. */
export type Fits<G extends Granularity, H extends Granularity> = [H] extends [Beside<G>] ? unknown
  : FieldError<
    "values of two granularities do not mix, say spread(), atEnd(), sumPerSequence() or meanPerSequence()",
    G | H
  >;
/** What comes out: a batch scalar takes the granularity of the other side. */
export type Joined<G extends Granularity, H extends Granularity> = G extends "batch" ? H : G;
