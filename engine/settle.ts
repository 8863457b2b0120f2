/** Waiting for several things of which one failure causes others. */
import { NativeError } from "../ffi/device.ts";
import { STATUS } from "../ffi/symbols.ts";

/**
 * Results of all, once all have ended: nothing may be left in the queue of a device.
 *
 * @throws what went wrong first: not what merely waited for it
 */
export async function settleAll<T>(promises: Iterable<Promise<T>>): Promise<T[]> {
  const results = await Promise.allSettled(promises);
  const failed = results.flatMap((r) => r.status === "rejected" ? [r.reason] : []);
  if (failed.length) throw firstCause(failed);
  return results.map((r) => (r as PromiseFulfilledResult<T>).value);
}

/** Of several failures the one that caused the others. */
export const firstCause = (errors: readonly unknown[]): unknown =>
  errors.find((e) => !isSecondary(e)) ?? errors[0];

/** A job that was stopped because of another one, or cancelled from outside. */
const isSecondary = (error: unknown): boolean =>
  error instanceof NativeError && error.status === STATUS.CANCELLED;
