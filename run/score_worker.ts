/// <reference lib="deno.worker" />
/**
 * The wrapper module of a score worker: imports the user's script, finds the function by call id, and scores samples. A closure
 * cannot be sent to a worker, so captured values are rebuilt by importing the script again (DESIGN §3.5).
 */
import { digest } from "../ir/digest.ts";
import { isWorkflow } from "../dsl/workflow.ts";
import type { Answer, Question } from "./score_workers.ts";

const answer = (a: Answer) => self.postMessage(a);

let scores: Readonly<Record<string, (sample: never) => number | Promise<number>>> = {};

// Ending the process is not a script's import to decide: here it would end the worker without a word.
Object.defineProperty(Deno, "exit", {
  value: (code = 0) => {
    throw new Error(`it called Deno.exit(${code})`);
  },
});

self.onmessage = async ({ data }: MessageEvent<Question>) => {
  try {
    if (data.kind === "import") {
      Object.defineProperty(Deno, "args", { value: Object.freeze([...data.args]), configurable: true });
      const found = Object.values(await import(data.script)).filter(isWorkflow);
      const same = found.find((w) =>
        digest(w.graph) === data.digest || (w.evaluation && digest(w.evaluation.graph) === data.digest)
      );
      if (!same) {
        const why = found.length ? "importing it again builds another call graph" : "it exports no workflow";
        return answer({ kind: "refused", why });
      }
      scores = same.scores;
      return answer({ kind: "ready" });
    }
    const { run, sample } = data;
    answer({ kind: "started", run, sample });
    answer({ kind: "value", run, sample, value: await scores[data.call]!(data.fields as never) });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    if (data.kind === "import") answer({ kind: "refused", why: `importing it failed: ${message}` });
    else answer({ kind: "failed", run: data.run, sample: data.sample, message });
  }
};
