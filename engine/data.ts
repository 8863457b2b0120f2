/** A data set: its samples, the part held out, and a cursor over shuffled epochs that can be saved and resumed. */
import type { SourceSpec } from "../ir/graph.ts";
import { wantedColumns } from "./columns.ts";
import { permutation, streamKey } from "./random.ts";
import { readRows } from "./rows.ts";
import { type Sample, type SampleOptions, TooLong, toSample } from "./sample.ts";

export type { Sample } from "./sample.ts";

/** Where a run stands in its data. Plain JSON; goes into checkpoints. */
export interface Cursor {
  readonly epoch: number;
  /** Samples of this epoch already taken. */
  readonly position: number;
}

export interface DataOptions extends Pick<SampleOptions, "tokenizer" | "vocabulary" | "maxTokens"> {
  readonly seed: number;
}

/** The samples of one source. */
export interface DataSet {
  readonly path: string;
  /** In file order. */
  readonly training: readonly Sample[];
  /** In file order; the same for every run with this seed. */
  readonly heldOut: readonly Sample[];
  /** Rows left out because they are too long, or because what is left of them when they are cut has no action. */
  readonly skipped: number;
  /** SHA-256 of the file: a cursor is only exact for the file that it was made with. */
  readonly digest: string;
}

/**
 * Reads and encodes the whole file. Throws one error that names file and line of malformed rows, missing fields and
 * sequences that are too long (unless the source skips or cuts those), or says that the file is missing or empty.
 */
export async function loadData(source: SourceSpec, options: DataOptions): Promise<DataSet> {
  const { path, kind, fields, columns, chat, longRows } = source;
  const maxTokens = Math.min(options.maxTokens, source.maxTokens ?? Infinity);
  const cut = longRows === "truncate";
  const spec = { kind, fields, maxTokens, cut, ...(columns && { columns }), ...(chat && { chat }) };
  const { values, digest } = await readRows(path, (row, index) => {
    try {
      return toSample(row, index, { ...options, ...spec });
    } catch (error) {
      if (longRows && error instanceof TooLong) return null;
      throw error;
    }
  }, { wanted: wantedColumns(source) });
  const samples = values.filter((sample) => sample !== null);
  if (samples.length === 0) {
    throw new RangeError(
      `Cannot read data: all ${values.length} rows of ${path} are longer than ${maxTokens} tokens`,
    );
  }
  return {
    path,
    digest,
    skipped: values.length - samples.length,
    ...splitHeldOut(samples, source.heldOut, options.seed, path),
  };
}

/** Splits off a share of the samples, chosen by the seed. Throws when that leaves nothing to train on. */
export function splitHeldOut(
  samples: readonly Sample[],
  share: number,
  seed: number,
  path: string,
): { readonly training: readonly Sample[]; readonly heldOut: readonly Sample[] } {
  if (share === 0) return { training: samples, heldOut: [] };
  const count = Math.max(1, Math.round(samples.length * share));
  if (count >= samples.length) {
    throw new RangeError(
      `Cannot hold out ${share} of ${path}: that is ${count} of its ${samples.length} samples and leaves none to train on`,
    );
  }
  const held = new Set(permutation(samples.length, streamKey(seed, "held out")).slice(0, count));
  return {
    training: samples.filter((_, i) => !held.has(i)),
    heldOut: samples.filter((_, i) => held.has(i)),
  };
}

/**
 * Takes samples epoch after epoch, every epoch in its own order. A batch that reaches the end of an epoch continues in
 * the next, so every sample is seen equally often and the number of steps does not depend on the batch size.
 */
export class DataReader {
  #epoch: number;
  #position: number;
  #order: readonly number[];

  /** @param cursor where an earlier run stopped */
  constructor(
    readonly samples: readonly Sample[],
    readonly options: { readonly seed: number; readonly shuffle: boolean },
    cursor: Cursor = { epoch: 0, position: 0 },
  ) {
    if (samples.length === 0) {
      throw new RangeError("Cannot read data: the data set has no sample, give at least one");
    }
    if (cursor.position > samples.length) {
      throw new RangeError(
        `Cannot resume at sample ${cursor.position} of an epoch: the data set has ${samples.length}, put the file back that the run began with`,
      );
    }
    this.#epoch = cursor.epoch;
    this.#position = cursor.position;
    this.#order = this.#orderOf(cursor.epoch);
  }

  get cursor(): Cursor {
    return { epoch: this.#epoch, position: this.#position };
  }

  /** The next samples. */
  next(count: number): readonly Sample[] {
    return Array.from({ length: count }, () => {
      if (this.#position === this.samples.length) {
        this.#order = this.#orderOf(++this.#epoch);
        this.#position = 0;
      }
      return this.samples[this.#order[this.#position++]!]!;
    });
  }

  #orderOf(epoch: number): readonly number[] {
    const { seed, shuffle } = this.options;
    return shuffle
      ? permutation(this.samples.length, streamKey(seed, "shuffle", epoch))
      : Array.from({ length: this.samples.length }, (_, i) => i);
  }
}
