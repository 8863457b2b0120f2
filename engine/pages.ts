/** Pages of the KV cache: counted references, because the samples of one prompt share its full pages. */
export class PagePool {
  readonly #references: Uint16Array;
  readonly #free: number[];

  constructor(readonly pages: number) {
    this.#references = new Uint16Array(pages);
    this.#free = Array.from({ length: pages }, (_, i) => pages - 1 - i);
  }

  get available(): number {
    return this.#free.length;
  }

  /** A fresh page, or undefined when none is left. */
  take(): number | undefined {
    const page = this.#free.pop();
    if (page !== undefined) this.#references[page] = 1;
    return page;
  }

  share(page: number): number {
    this.#references[page]!++;
    return page;
  }

  release(page: number): void {
    if (this.#references[page] === 0) throw new Error(`Cannot release KV page ${page}: nothing holds it`);
    if (--this.#references[page]! === 0) this.#free.push(page);
  }
}
