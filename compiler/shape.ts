/** Sizes of shapes: since only the first dim may be symbolic, a number of elements is `times × symbol`. */
import {
  align,
  type Attr,
  BYTES,
  type Dim,
  dim,
  elements,
  type Maxima,
  type Shape,
  type Value,
} from "../ir/op.ts";

/** Dims of a program that works on no rows. */
export const NO_ROWS: Maxima = {
  one: 1,
  tokens: 0,
  actions: 0,
  sequences: 0,
  groups: 0,
  pairs: 0,
  shard: 0,
};

export const asDim = (d: Attr): Dim => typeof d === "number" ? dim("one", d) : d;

/** Elements of a shape; [] and [1] are both one element. */
export function size(shape: Shape): Dim {
  const [first = 1, ...rest] = shape;
  const rows = asDim(first);
  return dim(rows.symbol, rest.reduce((n, d) => n * d, rows.times));
}

/** The first dim: how many rows there are. */
export const rowsOf = (shape: Shape): Attr => shape[0] ?? 1;
/** The second dim of a matrix; a vector has rows of one element. */
export const widthOf = (shape: Shape): number => shape[1] ?? 1;
export const sameDim = (a: Attr, b: Attr): boolean => showDim(a) === showDim(b);
export const sameSize = (a: Shape, b: Shape): boolean => sameDim(size(a), size(b));
/** One element whatever the live dims are: what broadcasts. */
export const isScalar = (shape: Shape): boolean => sameDim(size(shape), 1);

export function showDim(d: Attr): string {
  const { symbol, times } = asDim(d);
  return symbol === "one" ? `${times}` : times === 1 ? symbol : `${times}·${symbol}`;
}
export const show = (shape: Shape): string => `[${shape.map(showDim).join(", ")}]`;

/** Bytes of a value at the largest dims. */
export const bytesOf = (v: Value, at: Maxima): number => BYTES[v.dtype] * elements(v.shape, at);
/** Bytes that are set aside for a value: whole cache lines, at least one so that every place is its own. */
export const reservedBytes = (v: Value, at: Maxima): number => Math.max(64, align(bytesOf(v, at)));
