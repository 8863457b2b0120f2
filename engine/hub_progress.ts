/** What a person sees of a download: a bar on a terminal, two lines elsewhere. */
import { SingleBar } from "npm:cli-progress@3.12.0";
import { shortBytes as bytes } from "./table.ts";

/** A download for the people who wait for it. */
export interface HubProgress {
  /** Bytes of all files, and those that were there. */
  start(what: string, bytes: number, done: number): void;
  /** Bytes that are there now. */
  update(done: number): void;
  stop(): void;
}

/** On stderr. */
export function hubProgress(terminal: boolean = Deno.stderr.isTerminal()): HubProgress {
  return terminal ? new Bar() : new Lines();
}

class Bar implements HubProgress {
  #bar: SingleBar | null = null;

  start(what: string, total: number, done: number): void {
    this.#bar = new SingleBar({
      format: `${what} {bar} {percentage} % of ${bytes(total)} {eta_formatted}`,
      barCompleteChar: "━",
      barIncompleteChar: "─",
      barsize: 20,
      hideCursor: true,
      linewrap: false,
      fps: 10,
      // Ctrl-C ends the process; what is there is gone on from.
      gracefulExit: false,
    });
    this.#bar.start(total, done);
  }
  update(done: number): void {
    this.#bar?.update(done);
  }
  stop(): void {
    this.#bar?.stop();
  }
}

class Lines implements HubProgress {
  #what = "";
  #total = 0;
  #done = 0;

  start(what: string, total: number, done: number): void {
    this.#what = what;
    this.#total = total;
    this.#done = done;
    console.error(`downloading ${what}: ${bytes(total - done)}`);
  }
  update(done: number): void {
    this.#done = done;
  }
  stop(): void {
    const all = this.#done >= this.#total;
    console.error(all ? `downloaded ${this.#what}` : `stopped at ${bytes(this.#done)} of ${this.#what}`);
  }
}
