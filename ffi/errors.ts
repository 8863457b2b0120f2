/** What native failures are in TypeScript. */
import { STATUS } from "./symbols.ts";

/** A native call or job that failed; `status` is one of `STATUS`. */
export class NativeError extends Error {
  override readonly name = "NativeError";
  constructor(message: string, readonly status: number, options?: ErrorOptions) {
    super(message, options);
  }
}

const REASON: Readonly<Record<number, string>> = {
  [STATUS.BAD_HANDLE]: "the handle is not open, keep it until its last use",
  [STATUS.OUT_OF_MEMORY]: "there is no memory, use less or free some",
  [STATUS.BAD_ARGUMENT]: "an argument is out of range",
  [STATUS.BAD_PROGRAM]: "the program is malformed",
  [STATUS.CANCELLED]: "it was cancelled",
  [STATUS.FAILED]: "it failed",
};

/** A status in words. */
export const reason = (status: number): string => REASON[status] ?? `native status ${status}`;

/** @throws NativeError "Cannot `action`: …" unless the status is fine. */
export function check(status: number, action: string): void {
  if (status < 0) throw new NativeError(`Cannot ${action}: ${reason(status)}`, status);
}

/** The handle that a native function makes. */
export function create(make: (id: Uint32Array<ArrayBuffer>) => number, action: string): number {
  const id = new Uint32Array(1);
  check(make(id), action);
  return id[0]!;
}

/** The C string in a buffer. */
export const text = (bytes: Uint8Array): string =>
  new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
