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
  | {
    readonly kind: "score";
    /** Several calls may be asked at once: an answer says whose it is. */
    readonly run: number;
    readonly call: string;
    readonly sample: number;
    readonly fields: ScoreSample;
  };
type OfSample = { readonly run: number; readonly sample: number };
export type Answer =
  | { readonly kind: "ready" }
  | { readonly kind: "refused"; readonly why: string }
  | OfSample & { readonly kind: "started" }
  | OfSample & { readonly kind: "value"; readonly value: number }
  | OfSample & { readonly kind: "failed"; readonly message: string };

/** Questions of one call in flight: an asynchronous function overlaps its waiting. */
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
  const runs = new Runs(worker, deadlineSeconds);
  return {
    scorer: { run: (call, batch, onDone, signal) => runs.begin(call, batch, onDone, signal) },
    dispose: () => worker.terminate(),
  };
}

const ask = (worker: Worker, question: Question) => worker.postMessage(question);

/** One score call over a batch. */
interface Run {
  readonly take: (data: Extract<Answer, OfSample>) => void;
  readonly fail: (error: unknown) => void;
  readonly call: ScoreCall;
}

/** The score calls that a worker is asked now. */
class Runs {
  readonly #runs = new Map<number, Run>();
  #last = 0;

  constructor(readonly worker: Worker, readonly deadlineSeconds: number) {
    // What a call is told after it has failed is nobody's.
    worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      if ("run" in data) this.#runs.get(data.run)?.take(data);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      this.#end(({ call }) =>
        new Error(
          `Cannot score in ${call.id}: its worker stopped: ${event.message}, mend the script that it imports`,
        )
      );
    };
  }

  /** The worker answers nobody any more. */
  #end(why: (run: Run) => unknown): void {
    this.worker.terminate();
    for (const run of [...this.#runs.values()]) run.fail(why(run));
  }

  begin(
    call: ScoreCall,
    batch: Batch,
    onDone: (samples: number) => void,
    signal?: AbortSignal,
  ): Promise<Float32Array> {
    const values = new Float32Array(batch.sequences),
      timers = new Map<number, ReturnType<typeof setTimeout>>();
    const id = ++this.#last, { promise, resolve, reject } = Promise.withResolvers<Float32Array>();
    let next = 0, done = 0;
    const cancel = () => this.#end(() => signal!.reason);
    const over = () => {
      this.#runs.delete(id);
      for (const timer of timers.values()) clearTimeout(timer);
      signal?.removeEventListener("abort", cancel);
    };
    const fail = (error: unknown) => {
      over();
      reject(error);
    };
    const send = () => {
      if (next >= batch.sequences) return;
      const sample = next++;
      ask(this.worker, {
        kind: "score",
        run: id,
        call: call.id,
        sample,
        fields: sampleOf(call, batch, sample),
      });
    };
    const take = (data: Extract<Answer, OfSample>) => {
      // A sample's time begins when its function does: one that keeps the worker busy must not use up the others' time.
      if (data.kind === "started") {
        const late = () => this.#end(() => tooLate(call, data.sample, this.deadlineSeconds));
        timers.set(data.sample, setTimeout(late, this.deadlineSeconds * 1000));
        return;
      }
      clearTimeout(timers.get(data.sample));
      timers.delete(data.sample);
      try {
        if (data.kind === "failed") throw scoreError(call, data.sample, data.message);
        values[data.sample] = checkedScore(call, data.sample, data.value);
      } catch (error) {
        return fail(error);
      }
      onDone(++done);
      if (done < batch.sequences) return send();
      over();
      resolve(values);
    };
    this.#runs.set(id, { take, fail, call });
    if (signal?.aborted) cancel();
    else {
      signal?.addEventListener("abort", cancel);
      for (let i = 0; i < Math.min(AT_ONCE, batch.sequences); i++) send();
    }
    return promise;
  }
}
