/** Jobs that devices run, and the one place where the process waits for them. */
import { NativeError, reason, text } from "./errors.ts";
import { native } from "./library.ts";
import { STATUS } from "./symbols.ts";

/** When a job ran, in milliseconds of `performance.now()`. */
export interface Span {
  readonly begin: number;
  readonly end: number;
}

/** Work that was handed to a device. */
export interface Job {
  /** Names the job in the native library. */
  readonly ticket: number;
  /** Settles when it has ended; rejects with a NativeError. Nobody needs to await it. */
  readonly done: Promise<Span>;
}

interface Pending {
  readonly label: string;
  readonly resolve: (span: Span) => void;
  readonly reject: (error: NativeError) => void;
}

const COMPLETIONS = 256, WAIT_MS = 100, WORDS = 6, ERROR_BYTES = 2048, SAMPLES = 8;

const pending = new Map<number, Pending>();
let lastTicket = 0, pumping = false;

/** What to add to the native clock, in milliseconds, for that of `performance.now()`: the shortest of a few looks at both. */
let offset: number | undefined;
function calibrate(): number {
  let best = Infinity, found = 0;
  for (let i = 0; i < SAMPLES; i++) {
    const before = performance.now(), clock = Number(native().baton_clock()) / 1e6, after = performance.now();
    if (after - before < best) [best, found] = [after - before, (before + after) / 2 - clock];
  }
  return found;
}

/**
 * Submits a job under a new ticket.
 * @param submit Hands it to the native library; throws when it is refused.
 */
export function startJob(label: string, submit: (ticket: number) => void): Job {
  offset ??= calibrate();
  do lastTicket = (lastTicket + 1) >>> 0; while (pending.has(lastTicket));
  const ticket = lastTicket;
  submit(ticket);
  const { promise: done, resolve, reject } = Promise.withResolvers<Span>();
  done.catch(() => {});
  pending.set(ticket, { label, resolve, reject });
  if (!pumping) pump();
  return { ticket, done };
}

/** Tickets of jobs, for the native library. */
export const tickets = (jobs: readonly Job[]): Uint32Array<ArrayBuffer> =>
  Uint32Array.from(jobs, (job) => job.ticket);

/** One outstanding `wait` collects completions, and only while something is pending: idle devices keep no process alive. */
async function pump(): Promise<void> {
  pumping = true;
  const done = new Uint32Array(WORDS * COMPLETIONS), status = new Int32Array(done.buffer);
  const times = new BigUint64Array(done.buffer);
  const ms = (i: number) => Number(times[i]) / 1e6 + offset!;
  while (pending.size > 0) {
    const count = await native().baton_wait(done, COMPLETIONS, WAIT_MS);
    for (let i = 0; i < count; i++) {
      const span = { begin: ms(3 * i + 1), end: ms(3 * i + 2) };
      settle(done[WORDS * i]!, status[WORDS * i + 1]!, span);
    }
  }
  pumping = false;
}

function settle(ticket: number, status: number, span: Span): void {
  const job = pending.get(ticket);
  if (!job) return;
  pending.delete(ticket);
  if (status === STATUS.OK) return job.resolve(span);
  const error = new Uint8Array(ERROR_BYTES);
  const found = native().baton_error(ticket, error, error.length) === STATUS.OK;
  job.reject(new NativeError(`Cannot run ${job.label}: ${found ? text(error) : reason(status)}`, status));
}
