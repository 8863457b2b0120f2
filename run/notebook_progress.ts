/** Progress of a run in a notebook: a line and live curves below the cell. */
import { curvesSvg } from "../engine/curves_svg.ts";
import { escape } from "../ir/markup.ts";
import type { StepRecord } from "../engine/metrics.ts";
import { type Progress, type StepProgress, summary } from "../engine/progress.ts";
import { Display } from "./kernel.ts";

/** Milliseconds between two drawings: a notebook's page is slower than a step of a tiny model. */
const PAUSE = 250;

export class NotebookProgress implements Progress {
  readonly #steps: StepRecord[] = [];
  readonly #notes: string[] = [];
  #line = "starting";
  #drawn = -Infinity;

  /** @param now milliseconds */
  constructor(
    private readonly steps: number,
    private readonly display: Display = new Display(),
    private readonly now: () => number = () => performance.now(),
  ) {}

  phase(call: string, done: number, of: number): void {
    this.#line = of > 1 ? `${call} ${done}/${of}` : call;
    this.#draw();
  }

  step(done: StepProgress): void {
    this.#steps.push({ step: done.step, ...done.metrics });
    this.#line = `step ${done.step}/${this.steps} · ${summary(done)}`;
    this.#draw(done.step === this.steps);
  }

  note(text: string): void {
    this.#notes.push(text);
    this.#draw(true);
  }

  stop(): void {
    this.#draw(true);
  }

  settled(): Promise<void> {
    return this.display.sent();
  }

  #draw(must = false): void {
    if (!must && this.now() - this.#drawn < PAUSE) return;
    this.#drawn = this.now();
    const lines = [...this.#notes, this.#line];
    const notes = lines.map((line) => `<div>${escape(line)}</div>`).join("");
    this.display.show({
      "text/plain": lines.join("\n"),
      "text/html": `${
        this.#steps.length > 1 ? curvesSvg(this.#steps) : ""
      }<div style="color:#4b5563">${notes}</div>`,
    });
  }
}
