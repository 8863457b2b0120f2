/** Runs a score call: the script's own function over the samples of a step, each with a deadline. */
import type { ScoreCall } from "../ir/graph.ts";
import type { Batch } from "./batch.ts";

/** One sample as a score function sees it: the fields that it declared. */
export type ScoreSample = Readonly<Record<string, string | number>>;
export type ScoreFunction = (sample: ScoreSample) => number | Promise<number>;

export interface Scorer {
  run(call: ScoreCall, batch: Batch, onDone: (samples: number) => void, signal?: AbortSignal): Promise<Float32Array>;
}

/** Samples whose function is awaited at the same time: rewards are often network calls. */
const AT_ONCE = 32;

/** Runs the function on the main thread: only its awaits have a deadline. */
export function mainThreadScorer(fn: ScoreFunction, deadlineSeconds: number): Scorer {
  return {
    async run(call, batch, onDone, signal) {
      const values = new Float32Array(batch.sequences);
      let next = 0, done = 0;
      const worker = async () => {
        while (next < batch.sequences) {
          signal?.throwIfAborted();
          const i = next++;
          values[i] = checked(call, i, await withDeadline(call, i, () => fn(sampleOf(call, batch, i)), deadlineSeconds));
          onDone(++done);
        }
      };
      await Promise.all(Array.from({ length: Math.min(AT_ONCE, batch.sequences) }, worker));
      return values;
    },
  };
}

export function sampleOf(call: ScoreCall, batch: Batch, i: number): ScoreSample {
  return Object.fromEntries(
    Object.entries(call.reads).map(([port, field]) => {
      const text = batch.texts.get(field);
      if (text) return [port, text[i]!];
      const column = batch.numbersOf(field);
      return [port, column.per === "batch" ? column.values[0]! : column.values[i] as number];
    }),
  );
}

async function withDeadline(call: ScoreCall, i: number, fn: () => number | Promise<number>, seconds: number): Promise<number> {
  let timer: number | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`Cannot score sample ${i} in ${call.id}: the function took longer than ${seconds} s, raise the deadline`)),
      seconds * 1000,
    );
  });
  try {
    return await Promise.race([Promise.resolve().then(fn), late]);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    if (message.startsWith("Cannot score")) throw error;
    throw new Error(`Cannot score sample ${i} in ${call.id}: the function threw "${message}"`, { cause: error });
  } finally {
    clearTimeout(timer);
  }
}

function checked(call: ScoreCall, i: number, value: number): number {
  if (typeof value !== "number" || !Number.isFinite(value)) {
    throw new Error(`Cannot score sample ${i} in ${call.id}: the function returned ${value}, return a finite number`);
  }
  return value;
}
