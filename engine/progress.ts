/** What a person watching a run sees on stderr: a live bar on a terminal, one line a step elsewhere. */
import { SingleBar } from "npm:cli-progress@3.12.0";
import { shortNumber, shortTime } from "./table.ts";

/** A step that is done. */
export interface StepProgress {
  /** From 1. */
  readonly step: number;
  readonly metrics: Readonly<Record<string, number>>;
  readonly seconds: number;
  /** Tokens that the step generated or trained on. */
  readonly tokens: number;
}

export interface Progress {
  /** What is going on within the step: a call's id and how far it is. */
  phase(call: string, done: number, of: number): void;
  step(done: StepProgress): void;
  /** A line of its own, such as "checkpoint written". */
  note(text: string): void;
  /** Leaves the terminal as it should be. */
  stop(): void;
  /** Resolves when everything has reached who watches. */
  settled?(): Promise<void>;
}

export interface ProgressOptions {
  /** Steps that the run goes to. */
  readonly steps: number;
  /** Steps that were done before, when resumed. */
  readonly done?: number;
  readonly terminal: boolean;
  /** Takes a finished line; by default it goes to stderr. */
  readonly print?: (line: string) => void;
}

/** Recent steps count more in the remaining time: generation gets longer or shorter as the policy changes. */
const SMOOTHING = 0.2;

/** Progress of a run. */
export function createProgress(options: ProgressOptions): Progress {
  return options.terminal ? new LiveProgress(options) : new LineProgress(options);
}

/** Estimates the time that remains from the steps so far. */
class Clock {
  #mean = NaN;

  constructor(private readonly steps: number) {}

  /** Seconds that remain after a step. */
  after({ step, seconds }: StepProgress): number {
    this.#mean = Number.isNaN(this.#mean) ? seconds : this.#mean + SMOOTHING * (seconds - this.#mean);
    return (this.steps - step) * this.#mean;
  }
}

/** "reward 0.42 ± 0.03 · kl 0.01 · 512 tok/s · 2.10 s": what matters most of a step. */
export function summary({ metrics, seconds, tokens }: StepProgress): string {
  const parts: string[] = [];
  const add = (label: string, name: string) => {
    const value = metrics[name], error = metrics[`${name}Error`];
    if (value === undefined) return;
    parts.push(`${label} ${shortNumber(value)}${error === undefined ? "" : ` ± ${shortNumber(error)}`}`);
  };
  add("reward", "reward");
  add("kl", "klK3");
  add("length", "length");
  add("parity", "parity/max_abs");
  for (const name of Object.keys(metrics)) if (/(^|[./])loss$/.test(name)) add(name, name);
  if (seconds > 0 && tokens > 0) parts.push(`${shortNumber(Math.round(tokens / seconds))} tok/s`);
  parts.push(shortTime(seconds));
  return parts.join(" · ");
}

const printError = (line: string): void => console.error(line);

class LineProgress implements Progress {
  readonly #clock: Clock;

  constructor(private readonly options: ProgressOptions) {
    this.#clock = new Clock(options.steps);
  }

  phase(): void {}

  step(done: StepProgress): void {
    const left = this.#clock.after(done), { steps } = this.options;
    const width = String(steps).length;
    this.note(
      `step ${String(done.step).padStart(width)}/${steps} · ${summary(done)}` +
        (done.step < steps ? ` · ${shortTime(left)} left` : ""),
    );
  }

  note(text: string): void {
    (this.options.print ?? printError)(text);
  }

  stop(): void {}
}

class LiveProgress implements Progress {
  readonly #clock: Clock;
  readonly #bar: SingleBar;
  #payload = { phase: "starting", summary: "", left: "" };

  constructor(private readonly options: ProgressOptions) {
    this.#clock = new Clock(options.steps);
    this.#bar = new SingleBar({
      format: "step {value}/{total} {bar} {phase}{summary}{left}",
      barCompleteChar: "━",
      barIncompleteChar: "─",
      barsize: 20,
      hideCursor: true,
      clearOnComplete: false,
      // A wrapped line cannot be redrawn in place.
      linewrap: false,
      fps: 10,
      // Ctrl-C is the run's: it writes a checkpoint first.
      gracefulExit: false,
    });
    this.#bar.start(options.steps, options.done ?? 0, this.#payload);
  }

  phase(call: string, done: number, of: number): void {
    this.#payload = { ...this.#payload, phase: of > 1 ? `${call} ${done}/${of}` : call };
    this.#bar.update(this.#payload);
  }

  step(done: StepProgress): void {
    const left = this.#clock.after(done);
    this.#payload = {
      phase: done.step < this.options.steps ? "" : "done",
      summary: ` · ${summary(done)}`,
      left: done.step < this.options.steps ? ` · ${shortTime(left)} left` : "",
    };
    this.#bar.update(done.step, this.#payload);
  }

  note(text: string): void {
    // Above the bar: the line is cleared, replaced by the note, and the bar is drawn again on the next one.
    (this.options.print ?? ((line) => printError(`\r\x1b[K${line}`)))(text);
    this.#bar.render();
  }

  stop(): void {
    this.#bar.stop();
  }
}
