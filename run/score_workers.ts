/** Score calls in workers: a function that never returns is stopped by ending its worker. */
import type { ScoreCall } from "../ir/graph.ts";
import type { Batch } from "../engine/batch.ts";
import { checkedScore, sampleOf, scoreError, type Scorer, type ScoreSample, tooLate } from "../engine/score.ts";

export type Question =
  | { readonly kind: "import"; readonly script: string; readonly digest: string }
  | { readonly kind: "score"; readonly call: string; readonly sample: number; readonly fields: ScoreSample };
export type Answer =
  | { readonly kind: "ready" }
  | { readonly kind: "refused"; readonly why: string }
  | { readonly kind: "value"; readonly sample: number; readonly value: number }
  | { readonly kind: "failed"; readonly sample: number; readonly message: string };

/** Questions in flight to one worker: an asynchronous function overlaps its waiting. */
const AT_ONCE = 16;

export interface ScoreWorkers {
  readonly scorer: Scorer;
  dispose(): void;
}

/**
 * Starts a worker that has imported the script. Resolves to the reason when the script cannot be used so: it exports no workflow,
 * or importing it builds another one.
 */
export async function startScoreWorker(script: string, digest: string, deadlineSeconds: number): Promise<ScoreWorkers | string> {
  const worker = new Worker(new URL("./score_worker.ts", import.meta.url).href, { type: "module", name: "score" });
  const ready = await new Promise<Answer>((resolve) => {
    worker.onmessage = ({ data }: MessageEvent<Answer>) => resolve(data);
    worker.onerror = (event) => {
      event.preventDefault();
      resolve({ kind: "refused", why: event.message });
    };
    ask(worker, { kind: "import", script, digest });
  });
  if (ready.kind !== "ready") {
    worker.terminate();
    return ready.kind === "refused" ? ready.why : "it answered out of turn";
  }
  return { scorer: { run: (call, batch, onDone, signal) => runOn(worker, call, batch, deadlineSeconds, onDone, signal) }, dispose: () => worker.terminate() };
}

const ask = (worker: Worker, question: Question) => worker.postMessage(question);

function runOn(
  worker: Worker,
  call: ScoreCall,
  batch: Batch,
  deadlineSeconds: number,
  onDone: (samples: number) => void,
  signal?: AbortSignal,
): Promise<Float32Array> {
  const values = new Float32Array(batch.sequences), timers = new Map<number, ReturnType<typeof setTimeout>>();
  let next = 0, done = 0;
  return new Promise<Float32Array>((resolve, reject) => {
    const fail = (error: unknown, end: boolean) => {
      if (end) worker.terminate();
      for (const timer of timers.values()) clearTimeout(timer);
      reject(error);
    };
    const send = () => {
      if (signal?.aborted) return fail(signal.reason, false);
      if (next >= batch.sequences) return;
      const sample = next++;
      ask(worker, { kind: "score", call: call.id, sample, fields: sampleOf(call, batch, sample) });
      timers.set(sample, setTimeout(() => fail(tooLate(call, sample, deadlineSeconds), true), deadlineSeconds * 1000));
    };
    worker.onerror = (event) => {
      event.preventDefault();
      fail(new Error(`Cannot score in ${call.id}: its worker stopped: ${event.message}`), true);
    };
    worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      if (data.kind !== "value" && data.kind !== "failed") return;
      clearTimeout(timers.get(data.sample));
      timers.delete(data.sample);
      try {
        if (data.kind === "failed") throw scoreError(call, data.sample, data.message);
        values[data.sample] = checkedScore(call, data.sample, data.value);
      } catch (error) {
        return fail(error, false);
      }
      onDone(++done);
      if (done === batch.sequences) resolve(values);
      else send();
    };
    for (let i = 0; i < Math.min(AT_ONCE, batch.sequences); i++) send();
  });
}
