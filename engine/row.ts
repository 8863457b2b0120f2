/** One row of a data file, and what can be wrong with it. */

/** Something about one row, as `file:line: what`. */
export class RowError extends Error {
  override readonly name = "RowError";
}

/** A row before it is parsed. */
export interface RawRow {
  /** `file:line`, or `file row n`, from 1. */
  readonly at: string;
  /** Throws a SyntaxError where the text of the row is none of JSON. */
  readonly value: () => unknown;
}
