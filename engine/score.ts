/** Runs a score call: the script's own function over the samples of a step, each with a deadline. */
import type { ScoreCall } from "../ir/graph.ts";
import type { Batch } from "./batch.ts";

/** One sample as a score function sees it: the fields that it declared. */
export type ScoreSample = Readonly<Record<string, string | number>>;

export interface Scorer {
  /** One finite number per sequence. Rejects with the sample that was slow, threw, or gave no number. */
  run(
    call: ScoreCall,
    batch: Batch,
    onDone: (samples: number) => void,
    signal?: AbortSignal,
  ): Promise<Float32Array>;
}

/** Samples whose function is awaited at the same time: rewards are often network calls. */
const AT_ONCE = 32;

/** Runs the function on the main thread, where only its awaits can have a deadline. */
export function mainThreadScorer(
  fn: (sample: never) => number | Promise<number>,
  deadlineSeconds: number,
): Scorer {
  return {
    async run(call, batch, onDone, signal) {
      const values = new Float32Array(batch.sequences);
      let next = 0, done = 0, over = false;
      const drain = async () => {
        while (!over && next < batch.sequences) {
          const i = next++, sample = sampleOf(call, batch, i) as never;
          values[i] = checkedScore(call, i, await withDeadline(call, i, () => fn(sample), deadlineSeconds));
          onDone(++done);
        }
      };
      const all = Promise.all(Array.from({ length: Math.min(AT_ONCE, batch.sequences) }, drain));
      try {
        await unlessAborted(all, signal);
      } finally {
        over = true;
      }
      return values;
    },
  };
}

/** Waits no longer once the signal says so; functions that are still running are left to themselves. */
export async function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  const { promise, reject } = Promise.withResolvers<never>(), abort = () => reject(signal!.reason);
  if (signal?.aborted) abort();
  signal?.addEventListener("abort", abort);
  try {
    return await Promise.race([work, promise]);
  } finally {
    signal?.removeEventListener("abort", abort);
  }
}

export function sampleOf(call: ScoreCall, batch: Batch, i: number): ScoreSample {
  return Object.fromEntries(
    Object.entries(call.reads).map(([port, field]) => {
      const text = batch.texts.get(field);
      if (text) return [port, text[i]!];
      const column = batch.numbersOf(field);
      return [port, column.values[column.per === "batch" ? 0 : i] as number];
    }),
  );
}

/** What the work gives, or `late` after so many seconds. */
export async function within<T>(seconds: number, late: () => Error, work: () => Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const end = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(late()), seconds * 1000);
  });
  try {
    return await Promise.race([work(), end]);
  } finally {
    clearTimeout(timer);
  }
}

async function withDeadline(
  call: ScoreCall,
  i: number,
  fn: () => number | Promise<number>,
  seconds: number,
): Promise<number> {
  return await within(seconds, () => tooLate(call, i, seconds), async () => {
    try {
      return await fn();
    } catch (error) {
      throw scoreError(call, i, error instanceof Error ? error.message : String(error));
    }
  });
}

const where = (call: ScoreCall): string => call.site ? ` (${call.site})` : "";

export const tooLate = (call: ScoreCall, i: number, seconds: number): Error =>
  new Error(
    `Cannot score sample ${i} in ${call.id}: the function took longer than ${seconds} s, raise the deadline${
      where(call)
    }`,
  );

export const scoreError = (call: ScoreCall, i: number, message: string): Error =>
  new Error(`Cannot score sample ${i} in ${call.id}: the function threw "${message}", mend it${where(call)}`);

/** The value, when it is a finite number. */
export function checkedScore(call: ScoreCall, i: number, value: unknown): number {
  if (typeof value === "number" && Number.isFinite(value)) return value;
  throw new Error(
    `Cannot score sample ${i} in ${call.id}: the function returned ${value}, return a finite number${
      where(call)
    }`,
  );
}
