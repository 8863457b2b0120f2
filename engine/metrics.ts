/** The logs of a run: metrics.jsonl, one line a step, samples.jsonl, one a logged sample, evaluations.jsonl, one an evaluation. */
import { readTextOrNull, replaceFile, writeAll } from "./files.ts";

/** A line of metrics.jsonl. A metric `x` may have its standard error beside it, named `xError`. */
export interface StepRecord {
  readonly step: number;
  readonly [metric: string]: number;
}

/** A line of samples.jsonl. */
export interface SampleRecord {
  readonly step: number;
  /** Position of the prompt in the data set. */
  readonly index: number;
  /** Which of the two sequences of a preference pair it is. */
  readonly role?: "chosen" | "rejected";
  /** Of a conversation: all before its first action. */
  readonly prompt: string;
  /** Text of each response token; joined, the response. */
  readonly tokens: readonly string[];
  /** The response as the tokenizer decodes it. */
  readonly completion: string;
  /** Version of the weights that sampled it; −1 for data. */
  readonly weightVersion: number;
  /** Per response token, where the workflow has them: `logprobs`, `advantages`, `values`, … */
  readonly perToken: Readonly<Record<string, readonly number[]>>;
  /** Per sample: `rewards` and the like. */
  readonly scores: Readonly<Record<string, number>>;
  /** Whether a stop token ended it. */
  readonly finished: boolean;
}

/** Appends records of steps to a JSON Lines file; every record is in the file when `write` has returned. */
export class StepLog<R extends { readonly step: number }> implements Disposable {
  readonly #file: Deno.FsFile;

  private constructor(readonly path: string, file: Deno.FsFile) {
    this.#file = file;
  }

  /**
   * Opens a log. A new run begins an empty one; a resumed one keeps the lines up to the step that it resumes after, so
   * that a step which is made again is not there twice.
   */
  static async open<R extends { readonly step: number }>(
    path: string,
    { resumeAfter }: { readonly resumeAfter?: number } = {},
  ): Promise<StepLog<R>> {
    const old = resumeAfter === undefined ? [] : await readLog<R>(path);
    const kept = old.filter((record) => record.step <= (resumeAfter ?? 0));
    await replaceFile(path, kept.map((record) => toLine(record)).join(""));
    return new StepLog<R>(path, await Deno.open(path, { append: true }));
  }

  async write(record: R): Promise<void> {
    await writeAll(this.#file, new TextEncoder().encode(toLine(record)));
  }

  /** Forces what was written to disk: before a checkpoint says that these steps are done. */
  async flush(): Promise<void> {
    await this.#file.sync();
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

/** JSON has no NaN: a number that is not finite becomes null, a hole in a curve. */
const toLine = (record: unknown): string =>
  JSON.stringify(record, (_, value) => typeof value === "number" && !Number.isFinite(value) ? null : value) +
  "\n";

/** Records of a log, those of an absent file too (none). A last line that a crash cut off is left out. */
export async function readLog<R>(path: string): Promise<readonly R[]> {
  const text = await readTextOrNull(path) ?? "";
  const lines = text.split("\n");
  // Text after the last line end is a record whose writing was interrupted.
  lines.pop();
  return lines.map((line, i) => {
    try {
      return JSON.parse(line) as R;
    } catch {
      throw new Error(`Cannot read ${path}:${i + 1}: not valid JSON, the log was changed by something else`);
    }
  });
}
