/** What a model's numbers are stored in, and how. Everything else (places, byte tables, master copies, programs) follows from it. */
import { BYTES, type FloatType } from "../../ir/op.ts";
import type { Parameter } from "../../ir/program.ts";

export interface Storage {
  /** Parameters, and with them activations, their gradients and KV pages. Trained bf16 ones have an f32 master copy in `moments`. */
  readonly weights: FloatType;
  /** Gradients of parameters: sums over a mini-batch, rounded after each micro-batch where they are bf16. */
  readonly gradients: FloatType;
  /** How weights of products lie: what the devices read best (decisions 0002 and 0018). */
  readonly layout: Layout;
}

/** Panels of 16 outputs, for the CPU; row-major, as cuBLASLt takes them, for GPUs. See `ir/op.ts`. */
export type Layout = Parameter["layout"];

/** What people call it: all in single precision, or parameters and activations in half of it. */
export type Precision = "fp32" | "bf16";
export const PRECISIONS = ["fp32", "bf16"] as const satisfies readonly Precision[];
const TYPES = { fp32: "f32", bf16: "bf16" } as const satisfies Record<Precision, FloatType>;

/** What a precision means in memory; gradients may be rounded only where parameters are. */
export const storedIn = (
  precision: Precision,
  gradients: Precision = "fp32",
  layout: Layout = "panels",
): Storage => ({
  weights: TYPES[precision],
  gradients: TYPES[precision === "fp32" ? "fp32" : gradients],
  layout,
});

/** The same for people: "fp32", or "bf16 with fp32 gradients, sums and master copies". */
export const printStorage = ({ weights, gradients }: Storage): string =>
  weights === "f32"
    ? "fp32"
    : `bf16 with ${
      gradients === "f32" ? "fp32 gradients," : "bf16 gradients and fp32"
    } sums and master copies`;

export const SINGLE: Storage = { weights: "f32", gradients: "f32", layout: "panels" };

/** A model's config, as far as this goes. */
type Stored = { readonly storage?: Storage };

export const storageOf = ({ storage }: Stored): Storage => storage ?? SINGLE;

/** f32 numbers that the optimizer keeps of every trained parameter: both moments, and the parameter itself where programs have it rounded. */
export const optimizerNumbers = (config: Stored): number => storageOf(config).weights === "f32" ? 2 : 3;

/** Elements of a parameter in a cache line: where parameters begin, and what is shared out over ranks as one row. */
export const lineOf = (config: Stored): number => 64 / BYTES[storageOf(config).weights];
