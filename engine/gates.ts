/** Places where data-parallel replicas wait for each other on the host. */

/**
 * All ranks of a group have to be given a program with their collective operations at one moment: what waits in a queue then never
 * waits for what was submitted later (docs/decisions/0009-jobs-that-wait-for-jobs.md). A replica comes to a gate with what it
 * will submit; the last one to come submits for all.
 */
export class Gates {
  readonly #waiting = new Map<number, Map<number, () => void>>();
  readonly #open = new Map<number, PromiseWithResolvers<void>>();
  #failure: { readonly reason: unknown } | null = null;

  /** @param broken called when some of what belongs together was submitted and the rest cannot be: devices would wait for it */
  constructor(readonly replicas: number, readonly broken: () => void) {}

  /** Resolves when the work of every replica has been submitted at this gate. Rejects when one of them does not come any more. */
  async pass(gate: number, replica: number, submit: () => void): Promise<void> {
    if (this.#failure) throw this.#failure.reason;
    let open = this.#open.get(gate);
    if (!open) {
      this.#open.set(gate, open = Promise.withResolvers());
      open.promise.catch(() => {});
    }
    const waiting = this.#waiting.get(gate) ?? new Map<number, () => void>();
    this.#waiting.set(gate, waiting.set(replica, submit));
    if (waiting.size === this.replicas) {
      try {
        for (const [, submit] of [...waiting].toSorted(([a], [b]) => a - b)) submit();
        open.resolve();
      } catch (error) {
        this.broken();
        open.reject(error);
      }
    }
    await open.promise;
  }

  /** Nobody waits any longer for a replica that has failed. */
  fail(reason: unknown): void {
    this.#failure ??= { reason };
    for (const open of this.#open.values()) open.reject(this.#failure.reason);
  }
}
