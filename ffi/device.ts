/** Devices, their memory and their programs, over the native functions. */
import { type Maxima, OPCODE, type Segment, SEGMENTS, SYMBOLS } from "../ir/op.ts";
import type { Program } from "../ir/program.ts";
import { native } from "./library.ts";
import { STATUS } from "./symbols.ts";

/** A native call or program that failed; `status` is one of `STATUS`. */
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

const check = (status: number, action: string): void => {
  if (status < 0) {
    throw new NativeError(`Cannot ${action}: ${REASON[status] ?? `native status ${status}`}`, status);
  }
};
const create = (make: (id: Uint32Array<ArrayBuffer>) => number, action: string): number => {
  const id = new Uint32Array(1);
  check(make(id), action);
  return id[0]!;
};
const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));

export interface Description {
  readonly backend: "cpu" | "cuda";
  readonly isa: "generic" | "avx2" | "avx512";
  /** Cores that the machine shows. */
  readonly cores: number;
  /** A row of the byte table: what kernels use beside the segments, for each thread of a device. */
  readonly scratchBytesPerThread: number;
}

/** What the native library is and found. */
export function describe(): Description {
  const json = new Uint8Array(1024);
  check(native().baton_describe(json, json.length), "describe the native library");
  return JSON.parse(text(json));
}

/** Chooses the instruction set of every device of this process; false when the machine lacks it. For tests. */
export function selectInstructions(isa: "best" | Description["isa"]): boolean {
  return native().baton_select_isa(["best", "generic", "avx2", "avx512"].indexOf(isa)) === STATUS.OK;
}

/** Device memory: zero until written, and only what is touched costs memory. */
export class DeviceSegment implements Disposable {
  readonly id: number;

  /** @throws NativeError when there is no memory. */
  constructor(readonly bytes: number) {
    this.id = create((id) => native().baton_segment_create(BigInt(bytes), id), `allocate ${bytes} bytes`);
  }

  /** Copies `data` to `offset` at once, whatever is queued. */
  write(offset: number, data: ArrayBufferView): void {
    const status = native().baton_segment_write(
      this.id,
      BigInt(offset),
      data as ArrayBufferView<ArrayBuffer>,
      BigInt(data.byteLength),
    );
    check(status, `write ${data.byteLength} bytes at ${offset} of a segment of ${this.bytes}`);
  }

  /** Fills `into` from `offset` at once; await what writes there first. */
  read<T extends ArrayBufferView<ArrayBuffer>>(offset: number, into: T): T {
    const status = native().baton_segment_read(this.id, BigInt(offset), into, BigInt(into.byteLength));
    check(status, `read ${into.byteLength} bytes at ${offset} of a segment of ${this.bytes}`);
    return into;
  }

  /** Sets `bytes` bytes from `offset` on to `byte`. */
  fill(offset: number, bytes: number, byte: number): void {
    const status = native().baton_segment_fill(this.id, BigInt(offset), BigInt(bytes), byte);
    check(status, `fill ${bytes} bytes at ${offset} of a segment of ${this.bytes}`);
  }

  /** Queued executions that use it keep the memory until they end. */
  [Symbol.dispose](): void {
    check(native().baton_segment_destroy(this.id), "free a segment");
  }
  dispose(): void {
    this[Symbol.dispose]();
  }
}

/** Memory bound to a program's segments; one that the program needs no byte of may be left out. */
export type Segments = Readonly<Partial<Record<Segment, DeviceSegment>>>;

/** A program that the native library has decoded and checked. It fits every device of the process. */
export class LoadedProgram implements Disposable {
  private constructor(readonly id: number, readonly program: Program) {}

  /** @throws NativeError that names the operation and what is wrong with it. */
  static load(program: Program): LoadedProgram {
    const error = new Uint8Array(512), id = new Uint32Array(1);
    const status = native().baton_program_load(
      program.bytes,
      BigInt(program.bytes.length),
      id,
      error,
      error.length,
    );
    if (status === STATUS.BAD_PROGRAM) {
      throw new NativeError(`Cannot load ${program.name}: ${text(error)}`, status);
    }
    check(status, `load ${program.name}`);
    return new LoadedProgram(id[0]!, program);
  }

  [Symbol.dispose](): void {
    check(native().baton_program_unload(this.id), `unload ${this.program.name}`);
  }
  dispose(): void {
    this[Symbol.dispose]();
  }
}

interface Pending {
  readonly name: string;
  readonly resolve: () => void;
  readonly reject: (error: NativeError) => void;
}

const COMPLETIONS = 256, WAIT_MS = 100;

/** A native worker thread with its queue, and the threads that it shares kernels with. */
export class Device implements Disposable {
  readonly #pending = new Map<number, Pending>();
  #ticket = 0;
  #pumping = false;
  #closed = false;

  private constructor(readonly id: number, readonly threads: number, readonly description: Description) {}

  /**
   * @param options.threads Threads that run one operation together, 1 … 1024. Results do not depend on it.
   * @throws Error when the library cannot be built or opened; NativeError when there is no memory.
   */
  static open(options: { readonly threads: number }): Device {
    const { threads } = options;
    const id = create(
      (id) => native().baton_device_create(threads, id),
      `open a device with ${threads} threads`,
    );
    return new Device(id, threads, describe());
  }

  /**
   * Queues one execution; executions of a device run one after the other, in order.
   * @param dims Live value of every symbol, at most the program's largest.
   * @returns A promise that settles when it has run.
   * @throws NativeError at once when the segments or dims do not fit the program.
   */
  submit(program: LoadedProgram, segments: Segments, dims: Maxima): Promise<void> {
    const { name } = program.program;
    if (this.#closed) throw new TypeError(`Cannot run ${name}: the device is closed, open another one`);
    const bound = Uint32Array.from(SEGMENTS, (segment) => segments[segment]?.id ?? 0xffffffff);
    const live = Uint32Array.from(SYMBOLS, (symbol) => dims[symbol]);
    const ticket = this.#ticket = (this.#ticket + 1) >>> 0;
    const status = native().baton_submit(this.id, program.id, bound, bound.length, live, live.length, ticket);
    if (status < 0) {
      throw new NativeError(`Cannot run ${name}: ${misfit(program.program, segments, dims, status)}`, status);
    }
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#pending.set(ticket, { name, resolve, reject });
    if (!this.#pumping) this.#pump();
    return promise;
  }

  /** While on, queued and running programs end early and reject. Checked between operations. */
  cancel(on: boolean): void {
    check(native().baton_cancel(this.id, on ? 1 : 0), "cancel a device");
  }

  /** Bytes that kernels use beside the segments: a row of the byte table. */
  get scratchBytes(): number {
    return this.threads * this.description.scratchBytesPerThread;
  }

  /**
   * Median seconds of one product of an idle device: "forward" x·wᵀ, "input" dy·w, "weight" dyᵀ·x, with w of [n, k] and m
   * rows; "peak" is m·n·k multiply-adds in registers, the most that the device can do.
   */
  productSeconds(
    mode: "forward" | "input" | "weight" | "peak",
    m: number,
    n: number,
    k: number,
    repetitions: number,
  ): number {
    const modes = ["forward", "input", "weight", "peak"];
    return native().baton_gemm_bench(this.id, modes.indexOf(mode), m, n, k, repetitions);
  }

  /** Nanoseconds by kind of operation since the last call; `all` is the time in which programs ran. */
  profile(): Record<string, number> {
    const spent = new Float64Array(64);
    check(native().baton_profile(this.id, spent), "read the profile of a device");
    const kinds = Object.entries(OPCODE).map(([kind, code]) => [kind, spent[code]!] as const);
    return Object.fromEntries([["all", spent[0]!], ...kinds.filter(([, ns]) => ns > 0)]);
  }

  /** Stops the worker after the operation that it is in; what is still queued rejects. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    check(native().baton_device_destroy(this.id), "close a device");
    this.#abandon(STATUS.CANCELLED, "the device was closed");
  }
  [Symbol.dispose](): void {
    this.close();
  }

  /** One outstanding `wait` collects completions, and only while something is pending: an idle device keeps no process alive. */
  async #pump(): Promise<void> {
    this.#pumping = true;
    const done = new Uint32Array(2 * COMPLETIONS), status = new Int32Array(done.buffer);
    while (this.#pending.size > 0) {
      const count = await native().baton_wait(this.id, done, COMPLETIONS, WAIT_MS);
      if (count < 0) this.#abandon(count, REASON[count] ?? `native status ${count}`);
      for (let i = 0; i < count; i++) this.#settle(done[2 * i]!, status[2 * i + 1]!);
    }
    this.#pumping = false;
  }

  /** Rejects everything that is pending. */
  #abandon(status: number, why: string): void {
    for (const { name, reject } of this.#pending.values()) {
      reject(new NativeError(`Cannot run ${name}: ${why}`, status));
    }
    this.#pending.clear();
  }

  #settle(ticket: number, status: number): void {
    const pending = this.#pending.get(ticket);
    if (!pending) return;
    this.#pending.delete(ticket);
    if (status === STATUS.OK) return pending.resolve();
    const error = new Uint8Array(512);
    const found = native().baton_error(this.id, ticket, error, error.length) === STATUS.OK;
    pending.reject(
      new NativeError(`Cannot run ${pending.name}: ${found ? text(error) : REASON[status]}`, status),
    );
  }
}

/** Why an execution was refused: everything that does not fit. */
function misfit(program: Program, segments: Segments, dims: Maxima, status: number): string {
  if (status !== STATUS.BAD_ARGUMENT) return REASON[status] ?? `native status ${status}`;
  const small = SEGMENTS.filter((s) => (segments[s]?.bytes ?? 0) < program.segmentBytes[s])
    .map((s) => `segment ${s} has ${segments[s]?.bytes ?? 0} bytes and needs ${program.segmentBytes[s]}`);
  const large = SYMBOLS.filter((s) => dims[s] > program.maxima[s] || (s === "one" && dims[s] !== 1))
    .map((s) => `${s} is ${dims[s]} and at most ${program.maxima[s]}`);
  return [...small, ...large].join("; ") || "the program was not made from this description";
}
