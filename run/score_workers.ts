/** Score calls in workers: a function that never returns is stopped by ending its worker. */
import type { ScoreCall } from "../ir/graph.ts";
import type { Batch } from "../engine/batch.ts";
import {
  checkedScore,
  sampleOf,
  scoreError,
  type Scorer,
  type ScoreSample,
  tooLate,
} from "../engine/score.ts";

export type Question =
  | {
    readonly kind: "import";
    readonly script: string;
    readonly digest: string;
    readonly args: readonly string[];
  }
  | { readonly kind: "score"; readonly call: string; readonly sample: number; readonly fields: ScoreSample };
export type Answer =
  | { readonly kind: "ready" }
  | { readonly kind: "refused"; readonly why: string }
  | { readonly kind: "started"; readonly sample: number }
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
 * importing it builds another one, or does not end within the deadline.
 */
export async function startScoreWorker(
  script: string,
  digest: string,
  deadlineSeconds: number,
): Promise<ScoreWorkers | string> {
  const worker = new Worker(new URL("./score_worker.ts", import.meta.url).href, {
    type: "module",
    name: "score",
  });
  let timer: ReturnType<typeof setTimeout> | undefined;
  const ready = await new Promise<Answer>((resolve) => {
    const why = `importing it took longer than ${deadlineSeconds} s`;
    timer = setTimeout(() => resolve({ kind: "refused", why }), deadlineSeconds * 1000);
    worker.onmessage = ({ data }: MessageEvent<Answer>) => resolve(data);
    worker.onerror = (event) => {
      event.preventDefault();
      resolve({ kind: "refused", why: event.message });
    };
    ask(worker, { kind: "import", script, digest, args: Deno.args });
  });
  clearTimeout(timer);
  if (ready.kind !== "ready") {
    worker.terminate();
    return ready.kind === "refused" ? ready.why : "it answered out of turn";
  }
  return {
    scorer: {
      run: (call, batch, onDone, signal) => runOn(worker, call, batch, deadlineSeconds, onDone, signal),
    },
    dispose: () => worker.terminate(),
  };
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
    const cancel = () => fail(signal!.reason, true);
    const over = () => {
      for (const timer of timers.values()) clearTimeout(timer);
      signal?.removeEventListener("abort", cancel);
    };
    const fail = (error: unknown, end: boolean) => {
      if (end) worker.terminate();
      over();
      reject(error);
    };
    if (signal?.aborted) return cancel();
    signal?.addEventListener("abort", cancel);
    const send = () => {
      if (next >= batch.sequences) return;
      const sample = next++;
      ask(worker, { kind: "score", call: call.id, sample, fields: sampleOf(call, batch, sample) });
    };
    worker.onerror = (event) => {
      event.preventDefault();
      fail(
        new Error(
          `Cannot score in ${call.id}: its worker stopped: ${event.message}, mend the script that it imports`,
        ),
        true,
      );
    };
    worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      // A sample's time begins when its function does: one that keeps the worker busy must not use up the others' time.
      if (data.kind === "started") {
        const late = () => fail(tooLate(call, data.sample, deadlineSeconds), true);
        timers.set(data.sample, setTimeout(late, deadlineSeconds * 1000));
      }
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
      if (done < batch.sequences) return send();
      over();
      resolve(values);
    };
    for (let i = 0; i < Math.min(AT_ONCE, batch.sequences); i++) send();
  });
}
