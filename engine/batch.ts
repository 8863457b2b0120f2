/** The samples of one step, field by field, and how a subset of them is packed for a program. */
import type { FieldType, Schema } from "../ir/field.ts";
import { joinFloats } from "./arrays.ts";
import type { Sample } from "./sample.ts";
import type { ActionTokens } from "./tokenizer.ts";

/** A token field: whole sequences, which of their tokens are actions, and what made them. */
export interface TokenColumn {
  readonly ids: readonly Int32Array[];
  /** Positions of the actions in `ids`, ascending; never 0, since the first token is predicted by nothing. */
  readonly actions: readonly Int32Array[];
  /** Temperature that the actions were sampled with; 1 for data and for greedy samples. */
  readonly temperature: number;
  /** Version of the model that sampled each sequence; −1 for data. */
  readonly versions: readonly number[];
  /** The model that sampled them; absent for data. */
  readonly model?: string;
  /** Steps that the weights may have been behind when this is used. */
  readonly maxLag?: number;
  /** Tokens that truncated sampling kept, `width` for every action: ids, −1 behind the last. */
  readonly kept?: { readonly width: number; readonly ids: readonly Int32Array[] };
}

/** Numbers of one field: per token one array a sequence, otherwise one array for all. */
export type NumberColumn =
  | { readonly per: "token"; readonly of: string; readonly values: readonly Float32Array[] }
  | { readonly per: "sequence" | "pair" | "batch"; readonly values: Float32Array };

/** The fields that exist so far in a step. A field is written once. */
export class Batch {
  #sequences: number;
  #group: number;
  #rows: readonly Sample[];
  readonly tokens = new Map<string, TokenColumn>();
  readonly numbers = new Map<string, NumberColumn>();
  readonly texts = new Map<string, readonly string[]>();

  /**
   * @param sequences sequences in the batch
   * @param group sequences that share one prompt (samples), or 2 for preference pairs; they are neighbours
   * @param rows the data set rows of the groups
   */
  constructor(sequences: number, group: number, rows: readonly Sample[]) {
    this.#sequences = sequences;
    this.#group = group;
    this.#rows = rows;
  }

  get sequences(): number {
    return this.#sequences;
  }
  get group(): number {
    return this.#group;
  }
  get rows(): readonly Sample[] {
    return this.#rows;
  }

  /** Goes on with these sequences only, `group` of each row as neighbours, in this order. */
  keep(samples: readonly number[], group: number): void {
    this.#sequences = samples.length;
    this.#group = group;
    this.#each((values) => samples.map((s) => values[s]!));
  }

  /** Takes rows and all that is known about them from another batch: its groups come to the places `at` of this one's. */
  replace(at: readonly number[], other: Batch): void {
    const { group } = this, from = new Map(at.map((place, i) => [place, i]));
    this.#rows = this.rows.map((row, i) => from.has(i) ? other.rows[from.get(i)!]! : row);
    this.#each((values, theirs) =>
      values.map((value, s) => {
        const i = from.get(Math.floor(s / group));
        return i === undefined ? value : theirs[i * group + s % group]!;
      }), other);
  }

  /** Makes every column that has a value a sequence anew; `of` has a column of the same name for each, or is this batch itself. */
  #each(change: <T>(values: readonly T[], theirs: readonly T[]) => T[], of: Batch = this): void {
    for (const [name, values] of this.texts) this.texts.set(name, change(values, of.texts.get(name)!));
    for (const [name, column] of this.tokens) {
      const theirs = of.tokens.get(name)!;
      this.tokens.set(name, {
        ...column,
        ids: change(column.ids, theirs.ids),
        actions: change(column.actions, theirs.actions),
        versions: change(column.versions, theirs.versions),
        ...(column.kept && { kept: { ...column.kept, ids: change(column.kept.ids, theirs.kept!.ids) } }),
      });
    }
    for (const [name, column] of this.numbers) {
      const theirs = of.numbers.get(name)!;
      if (column.per === "token" && theirs.per === "token") {
        this.numbers.set(name, { ...column, values: change(column.values, theirs.values) });
      } else if (column.per === "sequence") {
        const values = Float32Array.from(
          change<number>([...column.values], [...theirs.values as Float32Array]),
        );
        this.numbers.set(name, { per: "sequence", values });
      }
    }
  }

  /** The row that a sequence came from. */
  rowOf(sequence: number): Sample {
    return this.rows[Math.floor(sequence / this.group)]!;
  }

  /** The token field, or an error that says which call should have made it. */
  tokensOf(field: string): TokenColumn {
    const column = this.tokens.get(field);
    if (!column) throw new Error(`Cannot read field "${field}": no call has written it in this step`);
    return column;
  }

  numbersOf(field: string): NumberColumn {
    const column = this.numbers.get(field);
    if (!column) throw new Error(`Cannot read field "${field}": no call has written it in this step`);
    return column;
  }

  /** Stores a field that a program wrote as one flat array over `order`. */
  putFlat(field: string, type: FieldType, flat: Float32Array): void {
    if (type.per !== "token") {
      this.numbers.set(field, { per: type.per, values: flat });
      return;
    }
    const of = type.of ?? "tokens", values: Float32Array[] = [];
    let at = 0;
    for (const actions of this.tokensOf(of).actions) {
      values.push(flat.subarray(at, at + actions.length));
      at += actions.length;
    }
    this.numbers.set(field, { per: "token", of, values });
  }

  /** The values of a field for some samples, concatenated in that order. */
  flat(field: string, samples: readonly number[]): Float32Array {
    const column = this.numbersOf(field);
    if (column.per === "batch") return column.values;
    if (column.per === "token") return joinFloats(samples.map((s) => column.values[s]!));
    if (column.per === "sequence") return Float32Array.from(samples, (s) => column.values[s]!);
    return Float32Array.from(samples.filter((s) => s % 2 === 0), (s) => column.values[s / 2]!);
  }
}

/** Arrays that a program reads, for some samples of one token field (docs/architecture.md, "Ports"). */
export interface Packed {
  readonly tokens: number;
  readonly actions: number;
  readonly sequences: number;
  readonly ids: Int32Array;
  readonly positions: Int32Array;
  readonly ends: Int32Array;
  readonly rows: Int32Array;
  readonly targets: Int32Array;
  readonly actionEnds: Int32Array;
  readonly lastRows: Int32Array;
  readonly kept?: Int32Array;
}

/** Packs sequences without padding, in the order given. */
export function pack(column: TokenColumn, samples: readonly number[]): Packed {
  const tokens = samples.reduce((n, s) => n + column.ids[s]!.length, 0);
  const actions = samples.reduce((n, s) => n + column.actions[s]!.length, 0);
  const p = {
    tokens,
    actions,
    sequences: samples.length,
    ids: new Int32Array(tokens),
    positions: new Int32Array(tokens),
    ends: new Int32Array(samples.length),
    rows: new Int32Array(actions),
    targets: new Int32Array(actions),
    actionEnds: new Int32Array(samples.length),
    lastRows: new Int32Array(samples.length),
    ...(column.kept && { kept: new Int32Array(actions * column.kept.width) }),
  };
  let t = 0, a = 0;
  samples.forEach((s, i) => {
    const ids = column.ids[s]!;
    p.ids.set(ids, t);
    if (column.kept) p.kept!.set(column.kept.ids[s]!, a * column.kept.width);
    for (let j = 0; j < ids.length; j++) p.positions[t + j] = j;
    for (const at of column.actions[s]!) {
      p.rows[a] = t + at - 1;
      p.targets[a] = ids[at]!;
      a++;
    }
    t += ids.length;
    p.ends[i] = t;
    p.lastRows[i] = t - 1;
    p.actionEnds[i] = a;
  });
  return p;
}

/**
 * Cuts `order` into runs of neighbours that hold at most `maxTokens` tokens and `maxSequences` sequences, never inside a
 * block of `together` neighbours. Micro-batches that cut one order contiguously give bit-identical sums.
 */
export function cutMicroBatches(
  lengths: readonly number[],
  order: readonly number[],
  limits: { readonly maxTokens: number; readonly maxSequences: number; readonly together: number },
): number[][] {
  const runs: number[][] = [];
  let run: number[] = [], tokens = 0;
  for (let i = 0; i < order.length; i += limits.together) {
    const block = order.slice(i, i + limits.together);
    const size = block.reduce((n, s) => n + lengths[s]!, 0);
    if (size > limits.maxTokens || block.length > limits.maxSequences) {
      throw new RangeError(
        `Cannot form a micro-batch: ${block.length} sequences that belong together have ${size} tokens and a micro-batch ` +
          `holds ${limits.maxTokens} tokens and ${limits.maxSequences} sequences, raise microBatchTokens`,
      );
    }
    if (run.length && (tokens + size > limits.maxTokens || run.length + block.length > limits.maxSequences)) {
      runs.push(run);
      run = [];
      tokens = 0;
    }
    run.push(...block);
    tokens += size;
  }
  if (run.length) runs.push(run);
  return runs;
}

/**
 * The data set's own fields of a step; rows of prompts are repeated for every sample of a group.
 *
 * @param fields their types: a value per pair is there once a row, one per sequence twice
 */
export function batchOf(rows: readonly Sample[], group: number, fields: Schema = {}): Batch {
  const batch = new Batch(rows.length * group, group, rows), first = rows[0]!;
  const each = <T>(f: (row: Sample, i: number) => T) =>
    rows.flatMap((row) => Array.from({ length: group }, (_, i) => f(row, i)));
  if (first.prompt) batch.texts.set("prompt", each((row) => row.prompt!.text));
  if (first.tokens) {
    batch.tokens.set(
      "tokens",
      given(each((row, i) => i === 1 ? row.rejected! : row.tokens!)),
    );
  }
  for (const [name, value] of Object.entries(first.fields)) {
    if (typeof value === "string") batch.texts.set(name, each((row) => row.fields[name] as string));
    else if (typeof value === "object") {
      batch.tokens.set(name, given(each((row) => row.fields[name] as ActionTokens)));
    } else {
      const per = fields[name]?.per === "pair" ? "pair" : "sequence", of = (row: Sample) => row.fields[name];
      const values = (per === "pair" ? rows.map(of) : each(of)) as number[];
      batch.numbers.set(name, { per, values: Float32Array.from(values) });
    }
  }
  return batch;
}

/** Sequences that the data set wrote. */
const given = (tokens: readonly ActionTokens[]): TokenColumn => ({
  ids: tokens.map((t) => t.ids),
  actions: tokens.map((t) => t.actions),
  temperature: 1,
  versions: tokens.map(() => -1),
});
