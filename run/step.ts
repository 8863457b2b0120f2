/** What a run hands out after every step. */
import type { Batch } from "../engine/batch.ts";
import { escape } from "../ir/markup.ts";
import type { SampleRecord } from "../engine/metrics.ts";
import { samplesHtml, type SamplesOptions, samplesText } from "../engine/samples_html.ts";
import { shortNumber } from "../engine/table.ts";

/** Samples of a step. A notebook shows them as a table whose tokens are coloured by a number. */
export class Samples {
  constructor(readonly records: readonly SampleRecord[], private readonly options: SamplesOptions = {}) {}

  /** The same, with tokens coloured by another field, or with more rows. Throws when the samples have no such field. */
  by(field: string, options: Omit<SamplesOptions, "field"> = {}): Samples {
    const shown = new Samples(this.records, { ...this.options, ...options, field });
    samplesHtml(this.records, shown.options);
    return shown;
  }

  toString(): string {
    return samplesText(this.records, this.options);
  }
  [Symbol.for("Deno.customInspect")](): string {
    return this.toString();
  }
  [Symbol.for("Jupyter.display")](): Record<string, string> {
    return { "text/plain": this.toString(), "text/html": samplesHtml(this.records, this.options) };
  }
}

/** One completed step. A notebook shows its metrics and samples. */
export class Step {
  #samples: Samples | null = null;

  constructor(
    /** From 1. */
    readonly step: number,
    readonly metrics: Readonly<Record<string, number>>,
    /** Every field of the step: samples, rewards, advantages. */
    readonly batch: Batch,
    private readonly records: () => readonly SampleRecord[],
  ) {}

  /** Prompts and responses with all that is known about them. */
  get samples(): Samples {
    return this.#samples ??= new Samples(this.records());
  }

  [Symbol.for("Jupyter.display")](): Record<string, string> {
    const metrics = Object.entries(this.metrics).map(([name, value]) => [name, shortNumber(value)] as const);
    const rows = metrics.map(([name, value]) => `<tr><td>${escape(name)}</td><td>${value}</td></tr>`);
    return {
      "text/plain": metrics.map(([name, value]) => `${name} ${value}`).join("\n"),
      "text/html":
        `<details><summary>step ${this.step}: ${metrics.length} metrics</summary><table>${
          rows.join("")
        }</table></details>` +
        samplesHtml(this.samples.records),
    };
  }
}
