/** A compiled device program and the exact table of the memory that it touches. */
import type { Attr, Dim, DType, FloatType, Maxima, OpKind, Segment, Shape } from "./op.ts";

/** One row of the byte table. */
export interface BufferRow {
  readonly segment: Segment;
  readonly name: string;
  readonly offset: number;
  readonly bytes: number;
}

/** A named place that the host reads or writes: "inputs/ids", "outputs/logprobs", "params/model.norm.weight". */
export interface Port {
  readonly segment: Segment;
  readonly offset: number;
  readonly shape: Shape;
  readonly dtype: DType;
  /** Bytes at the largest symbols. */
  readonly bytes: number;
}

/** An operation as far as its cost goes: what it is and how large. */
export interface Work {
  readonly kind: OpKind;
  readonly attrs: readonly Attr[];
  /** Elements of every operand, inputs first; of a table that is read here and there, all of it. */
  readonly elements: readonly Dim[];
  /** Bytes of an element of each. */
  readonly widths: readonly number[];
}

export interface Program {
  readonly name: string;
  /** What `baton_program_load` takes; see docs/program-format.md. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  readonly maxima: Maxima;
  /** Bytes that each segment must have, in the order of SEGMENTS. */
  readonly segmentBytes: Readonly<Record<Segment, number>>;
  readonly ports: Readonly<Record<string, Port>>;
  /** Arena buffers and placed values; the sum of segment sizes is the memory use. */
  readonly table: readonly BufferRow[];
  /** The most arena bytes alive at once: no placement can need less. */
  readonly liveBytes: number;
  /** Bytes of the bf16 operands of one operation in f32, at most: what the CPU computes with (`cuda/cpu/widen.h`). Absent in programs made by hand. */
  readonly widenedBytes?: number;
  /** Operations left after fusion, for printing. */
  readonly operations: number;
  /** The same operations in order, for whoever asks what they cost. */
  readonly work: readonly Work[];
  /** Useful floating point operations at given live dims (for MFU and the cost model). */
  readonly flops: (live: Maxima) => number;
}

/** A parameter as the model declares it; the order is the order in the `params` segment. */
export interface Parameter {
  /** Hugging Face name. */
  readonly name: string;
  /** Hugging Face shape. */
  readonly shape: readonly number[];
  readonly layout: "rows" | "panels";
  /** Weight decay applies when the optimizer decays matrices only. */
  readonly matrix: boolean;
  /** −1 for what belongs to no layer. */
  readonly layer: number;
  /** Initial distribution when no checkpoint gives it. */
  readonly init: "normal" | "zeros" | "ones" | "fanIn";
  /** Never changes: it has no gradient and no moments. */
  readonly frozen?: true;
  /** What the params segment holds it in. */
  readonly dtype: FloatType;
  /** What the grads segment holds its gradient in. */
  readonly gradient: FloatType;
  /** Byte offset in the params segment; grads has as many elements before it. */
  readonly offset: number;
  /** Elements stored, panel padding included. */
  readonly elements: number;
}
