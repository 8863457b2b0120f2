/** Devices of the native library; what they work with is in the files beside. */
import { type FloatType, type Maxima, OPCODE, SEGMENTS, SYMBOLS } from "../ir/op.ts";
import { check, create, NativeError, reason, text } from "./errors.ts";
import { encodeGroups, type Memberships, misgrouped } from "./group.ts";
import { type Job, startJob, tickets } from "./job.ts";
import { native, nextGpu } from "./library.ts";
import type { LoadedProgram } from "./program.ts";
import { encodeMoves, misplaced, type SegmentMove, type Segments } from "./segment.ts";
import { STATUS } from "./symbols.ts";

export { NativeError } from "./errors.ts";
export { useCpu, useCuda } from "./library.ts";
export { Group, type Membership, type Memberships } from "./group.ts";
export type { Job, Span } from "./job.ts";
export { LoadedProgram } from "./program.ts";
export { DeviceSegment, type SegmentMove, type Segments } from "./segment.ts";

export interface Description {
  readonly backend: "cpu" | "cuda";
  /** Instruction set of the CPU, or "sm_90" of the first GPU. */
  readonly isa: string;
  /** Cores that the machine shows. */
  readonly cores: number;
  /** A row of the byte table: what kernels use beside the segments, for each thread of a device. */
  readonly scratchBytesPerThread: number;
  /** Of the CUDA backend: one line that says why no GPU can be used, or nothing. */
  readonly missing?: string;
  readonly driver?: string;
  readonly runtime?: string;
  readonly math?: "fp32" | "bf16";
  /** Version and file of cublasLt, nccl, nvrtc and cudnn, or one line that says where they were looked for. */
  readonly libraries?: Readonly<Record<string, string>>;
  readonly gpus?: readonly Gpu[];
}

/** A GPU, as the CUDA backend sees it. */
export interface Gpu {
  readonly name: string;
  /** Compute capability, "9.0". */
  readonly capability: string;
  readonly multiprocessors: number;
  readonly bytes: number;
  readonly freeBytes: number;
  /** Where it is on the PCI bus, "0000:01:00.0". */
  readonly bus: string;
  /** GPUs whose memory its kernels can read. */
  readonly peers: readonly number[];
}

/** What the native library is and found. */
export function describe(): Description {
  const json = new Uint8Array(32768);
  check(native().baton_describe(json, json.length), "describe the native library");
  return JSON.parse(text(json));
}

/** Chooses the instruction set of every device of this process; false when the machine lacks it. For tests. */
export function selectInstructions(isa: "best" | "generic" | "avx2" | "avx512"): boolean {
  return native().baton_select_isa(["best", "generic", "avx2", "avx512"].indexOf(isa)) === STATUS.OK;
}

export interface SubmitOptions {
  /** Groups that the program's collective operations meet in. All ranks of a group get its programs in the same order. */
  readonly groups?: Memberships;
  /** Jobs of whatever device that have to end first; when one of them fails, so does this one. */
  readonly after?: readonly Job[];
  /** Names the job in errors, instead of the program's name. */
  readonly label?: string;
}

export interface CopyOptions {
  /** Copies when 1, else to = weight · from + (1 − weight) · to over floats. */
  readonly weight?: number;
  readonly after?: readonly Job[];
  readonly label?: string;
}

/** A native worker thread with its queue, and the threads that it shares kernels with. Jobs run in the order of submission. */
export class Device implements Disposable {
  #closed = false;

  private constructor(
    readonly id: number,
    readonly threads: number,
    readonly description: Description,
    /** Number of the GPU that it is on; `null` for a virtual device of the CPU. */
    readonly gpu: number | null,
  ) {}

  /**
   * @param options.threads Threads of the CPU that run one operation together, 1 … 1024. Results do not depend on it.
   * @param options.gpu With the CUDA backend, the GPU that it is on; several devices may be on one. By default the next of those
   * that {@link useCuda} named.
   * @throws Error when the library cannot be built or opened; NativeError when there is no memory, or no such GPU.
   */
  static open(options: { readonly threads: number; readonly gpu?: number }): Device {
    const description = describe();
    if (description.backend === "cuda") {
      const { gpu = nextGpu() } = options;
      if (description.missing) {
        throw new NativeError(`Cannot open GPU ${gpu}: ${description.missing}`, STATUS.FAILED);
      }
      return new Device(
        create((id) => native().baton_device_create(gpu, id), `open GPU ${gpu}`),
        1,
        description,
        gpu,
      );
    }
    const { threads } = options;
    const id = create(
      (id) => native().baton_device_create(threads, id),
      `open a device with ${threads} threads`,
    );
    return new Device(id, threads, description, null);
  }

  /**
   * Queues one execution.
   * @param dims Live value of every symbol, at most the program's largest.
   * @throws NativeError at once when the segments, dims or ranks do not fit the program.
   */
  submit(program: LoadedProgram, segments: Segments, dims: Maxima, options: SubmitOptions = {}): Job {
    const { groups = {}, after = [], label = program.program.name } = options;
    const bound = Uint32Array.from(SEGMENTS, (segment) => segments[segment]?.id ?? 0xffffffff);
    const live = Uint32Array.from(SYMBOLS, (symbol) => dims[symbol]);
    const members = encodeGroups(groups), first = tickets(after);
    return this.#start(label, (ticket) =>
      native().baton_submit(
        this.id,
        program.id,
        bound,
        bound.length,
        live,
        live.length,
        members,
        members.length / 2,
        first,
        first.length,
        ticket,
      ), () => misfit(program, segments, dims, groups));
  }

  /**
   * Queues copies between segments of any devices; this one's threads do them.
   * @throws NativeError at once when a move is not inside its segments.
   */
  copy(moves: readonly SegmentMove[], options: CopyOptions = {}): Job {
    const { weight = 1, after = [], label = "copy" } = options;
    const list = encodeMoves(moves), first = tickets(after);
    return this.#start(
      label,
      (ticket) => native().baton_copy(this.id, list, moves.length, weight, first, first.length, ticket),
      () => misplaced(moves, weight),
    );
  }

  #start(label: string, submit: (ticket: number) => number, why: () => string | undefined): Job {
    if (this.#closed) {
      throw new NativeError(`Cannot run ${label}: the device is closed, open another one`, STATUS.FAILED);
    }
    return startJob(label, (ticket) => {
      const status = submit(ticket);
      if (status >= 0) return;
      const found = status === STATUS.BAD_ARGUMENT ? why() : undefined;
      throw new NativeError(`Cannot run ${label}: ${found ?? reason(status)}`, status);
    });
  }

  /** While on, queued and running jobs end early and reject; ranks that wait for them stop too. Checked between operations. */
  cancel(on: boolean): void {
    if (this.#closed) return;
    check(native().baton_cancel(this.id, on ? 1 : 0), "cancel a device");
  }

  /** Bytes that kernels use beside the segments: a row of the byte table. */
  get scratchBytes(): number {
    return this.threads * this.description.scratchBytesPerThread;
  }

  /**
   * Median seconds of one product of an idle device: "forward" x·wᵀ, "input" dy·w, "weight" dyᵀ·x, with w of [n, k] and m
   * rows; "peak" is m·n·k multiply-adds in registers and "read" reads n·k values m times, the most that the device can do. NaN
   * when there is no memory for the operands.
   *
   * @param dtype of the operands; the CPU computes in f32 whatever it is
   */
  productSeconds(
    mode: "forward" | "input" | "weight" | "peak" | "read",
    m: number,
    n: number,
    k: number,
    repetitions: number,
    dtype: FloatType = "f32",
  ): number {
    const modes = ["forward", "input", "weight", "peak", "read"];
    const half = dtype === "bf16" ? 8 : 0;
    const seconds = native().baton_gemm_bench(this.id, modes.indexOf(mode) + half, m, n, k, repetitions);
    return seconds < 0 ? NaN : seconds;
  }

  /**
   * Nanoseconds by kind of operation since the last call; `all` is the time in which programs ran. GPUs time one execution of many, see
   * {@link profileEvery}, and count it for those since the one before.
   */
  profile(): Record<string, number> {
    const spent = new Float64Array(64);
    check(native().baton_profile(this.id, spent), "read the profile of a device");
    const kinds = Object.entries(OPCODE).map(([kind, code]) => [kind, spent[code]!] as const);
    return Object.fromEntries([["all", spent[0]!], ...kinds.filter(([, ns]) => ns > 0)]);
  }

  /**
   * GPUs time the operations of every n-th execution of a program, 64th at first: it takes an event more for each of them, and is issued
   * operation by operation where others replay a graph. 0 times none, 1 all. The CPU times all in any case, and it costs nothing there.
   */
  profileEvery(n: number): void {
    check(native().baton_profile_every(this.id, n), "profile a device");
  }

  /** Stops the worker after the operation that it is in; what is still queued rejects. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    check(native().baton_device_destroy(this.id), "close a device");
  }
  [Symbol.dispose](): void {
    this.close();
  }
}

/** Why an execution was refused: everything that does not fit. */
function misfit({ program }: LoadedProgram, segments: Segments, dims: Maxima, groups: Memberships): string {
  const small = SEGMENTS.filter((s) => (segments[s]?.bytes ?? 0) < program.segmentBytes[s])
    .map((s) => `segment ${s} has ${segments[s]?.bytes ?? 0} bytes and needs ${program.segmentBytes[s]}`);
  const large = SYMBOLS.filter((s) => dims[s] > program.maxima[s] || (s === "one" && dims[s] !== 1))
    .map((s) => `${s} is ${dims[s]} and at most ${program.maxima[s]}`);
  return [...small, ...large, ...misgrouped(groups)].join("; ") ||
    "a rank belongs to another device, or the program was not made from this description";
}
