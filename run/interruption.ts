/**
 * Ctrl-C: the first one cancels a rollout, or lets the running train calls finish, and a resumable checkpoint is written; the
 * second ends the process at once, with the last checkpoint intact.
 */
import type { StepHooks } from "../engine/stage.ts";

export class Interruption {
  asked = false;
  readonly #abort = new AbortController();
  #training = false;
  #ended = false;
  readonly #listener = () => this.#onSignal();

  constructor(readonly notice: { note(line: string): void; secondsLeft(): number; leave(): void }) {
    Deno.addSignalListener("SIGINT", this.#listener);
  }

  /** Hooks that also watch which call runs: a step that has begun to train is finished, anything before is cancelled. */
  hooks(inner: StepHooks & { readonly training?: (call: string) => boolean }): StepHooks {
    this.#training = false;
    return {
      ...inner,
      signal: this.#abort.signal,
      onPhase: (call, done, of) => {
        if (inner.training?.(call)) this.#training = true;
        inner.onPhase?.(call, done, of);
      },
    };
  }

  /** True for the error of a step that was cancelled on request. */
  cancelled(error: unknown): boolean {
    return this.asked && error === this.#abort.signal.reason;
  }

  /** Called when the last step and its evaluation are done: whether Ctrl-C ended the run. It cannot any more. */
  end(): boolean {
    this.#ended = true;
    return this.asked;
  }

  dispose(): void {
    Deno.removeSignalListener("SIGINT", this.#listener);
  }

  #onSignal(): void {
    if (this.asked) {
      this.notice.leave();
      console.error("Stopped at once; the last checkpoint is intact.");
      Deno.exit(130);
    }
    this.asked = true;
    if (this.#ended) {
      this.notice.note("The last step is done: files are written. Press Ctrl-C again to stop at once.");
    } else if (this.#training) {
      this.notice.note(
        `Stopping: the running train calls finish first, about ${
          this.notice.secondsLeft().toFixed(1)
        } s, then a checkpoint is written. ` +
          `Press Ctrl-C again to stop at once.`,
      );
    } else {
      this.notice.note(
        "Stopping: the rollout is cancelled and a checkpoint is written. Press Ctrl-C again to stop at once.",
      );
      this.#abort.abort(new DOMException("The run was interrupted", "AbortError"));
    }
  }
}
