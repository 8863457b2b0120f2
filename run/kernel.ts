/** The only file that speaks with a Jupyter kernel. Outside of one, even looking at `Deno.jupyter` throws, so nothing here does. */

/** What a cell shows, by media type. */
export type Bundle = Readonly<Record<string, string>>;

interface Jupyter {
  broadcast(
    type: "display_data" | "update_display_data",
    content: Readonly<Record<string, unknown>>,
  ): Promise<void>;
}

/** Whether this process is the kernel of a notebook. */
export const inKernel = (main: string = Deno.mainModule): boolean => main.includes("$deno$jupyter");

/** Something that a cell shows and that changes while the cell runs. */
export class Display {
  readonly #id = crypto.randomUUID();
  #shown = false;
  /** Messages go out one after the other: a chart must not fall back to an older one. */
  #last: Promise<void> = Promise.resolve();

  constructor(
    private readonly jupyter: Jupyter = (Deno as unknown as { readonly jupyter: Jupyter }).jupyter,
  ) {}

  show(data: Bundle): void {
    const type = this.#shown ? "update_display_data" : "display_data";
    this.#shown = true;
    const content = { data, metadata: {}, transient: { display_id: this.#id } };
    this.#last = this.#last.then(() => this.jupyter.broadcast(type, content)).catch(() => {});
  }

  /** Resolves when everything has been sent. */
  sent(): Promise<void> {
    return this.#last;
  }
}
