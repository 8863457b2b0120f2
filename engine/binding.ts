/** A program with memory bound to its segments: write inputs by name, run, read outputs by name. */
import { BYTES, elements, type Maxima, type Segment, SEGMENTS } from "../ir/op.ts";
import type { Port, Program } from "../ir/program.ts";
import { type Device, DeviceSegment, type Job, LoadedProgram } from "../ffi/device.ts";
import type { Memberships } from "./devices.ts";
import { toBfloat16, widened } from "./half.ts";

/** Live dims of one submission; what is not named is 0. */
export type Live = Partial<Omit<Maxima, "one">>;

export interface BindingOptions {
  /** The program as it is loaded already; it is loaded here otherwise. */
  readonly loaded?: LoadedProgram;
  /** Groups that the program's collective operations meet in. */
  readonly groups?: () => Memberships;
  /** What errors call it, instead of the program's name. */
  readonly label?: string;
  /** Hears of every submission. */
  readonly onJob?: (job: Job) => void;
  /** Hears of what the host wrote before a submission, and of what it reads. */
  readonly onTransfer?: (t: Transfer) => void;
}

/** Bytes between the host and a device, milliseconds of `performance.now()`. */
export interface Transfer {
  readonly to: "device" | "host";
  readonly bytes: number;
  readonly begin: number;
  readonly end: number;
}

export class Binding {
  readonly #loaded: LoadedProgram;
  readonly #segments: Readonly<Partial<Record<Segment, DeviceSegment>>>;
  readonly #own: DeviceSegment[] = [];
  /** What the host has written since the last submission. */
  #written: { bytes: number; ms: number; end: number } | null = null;
  /** Floating point operations submitted so far. */
  flops = 0;

  /** Segments that are not shared are allocated here: a program's inputs and outputs are its own. */
  constructor(
    readonly device: Device,
    readonly program: Program,
    shared: Partial<Record<Segment, DeviceSegment>>,
    readonly options: BindingOptions = {},
  ) {
    this.#loaded = options.loaded ?? LoadedProgram.load(program);
    const bound: Partial<Record<Segment, DeviceSegment>> = {};
    for (const name of SEGMENTS) {
      const bytes = program.segmentBytes[name];
      if (bytes === 0) continue;
      const given = shared[name];
      if (given && given.bytes < bytes) {
        throw new RangeError(
          `Cannot bind ${program.name}: ${name} needs ${bytes} bytes and ${given.bytes} are allocated`,
        );
      }
      bound[name] = given ?? new DeviceSegment(bytes, { near: device });
      if (!given) this.#own.push(bound[name]);
    }
    this.#segments = bound;
  }

  /** What messages call it. */
  get name(): string {
    return this.options.label ?? this.program.name;
  }

  has(port: string): boolean {
    return port in this.program.ports;
  }

  port(name: string): Port {
    const port = this.program.ports[name];
    if (!port) throw new RangeError(`Cannot find "${name}" in ${this.program.name}`);
    return port;
  }

  segment(name: Segment): DeviceSegment {
    const segment = this.#segments[name];
    if (!segment) throw new RangeError(`Cannot use segment ${name}: ${this.program.name} has none`);
    return segment;
  }

  /** Bytes that a port has at given dims. */
  portBytes(name: string, live: Live): number {
    const { dtype, shape } = this.port(name);
    return BYTES[dtype] * elements(shape, full(live));
  }

  /**
   * Copies an array to a port; it may be shorter than the port.
   *
   * @param live dims of the submission, when the array must hold exactly what they say
   */
  write(name: string, data: Float32Array | Int32Array, live?: Live): void {
    const port = this.port(name), expected = live ? elements(port.shape, full(live)) : data.length;
    if (data.length !== expected) {
      throw new RangeError(`Cannot write ${name}: it has ${data.length} values and ${expected} are read`);
    }
    const given = data instanceof Float32Array && port.dtype === "bf16" ? toBfloat16(data) : data;
    if (given.byteLength > port.bytes) {
      throw new RangeError(`Cannot write ${name}: ${given.byteLength} bytes do not fit ${port.bytes}`);
    }
    if (!given.byteLength) return;
    const begin = performance.now();
    this.segment(port.segment).write(port.offset, given);
    const end = performance.now(), before = this.#written;
    this.#written = {
      bytes: (before?.bytes ?? 0) + given.byteLength,
      ms: (before?.ms ?? 0) + end - begin,
      end,
    };
  }

  /** Writes a port when the program has it: programs read only what their outputs need. */
  offer(name: string, data: Float32Array | Int32Array): void {
    if (this.has(name)) this.write(name, data);
  }

  read(name: string, live: Live = {}): Float32Array {
    return this.readFloats(name, elements(this.port(name).shape, full(live)));
  }

  /** Reads `count` 32-bit integers from element `from` of a port. */
  readInts(name: string, count: number, from = 0): Int32Array {
    return this.#read(name, from, new Int32Array(count));
  }

  /** Reads `count` numbers from element `from` of a port; those of bf16 are widened. */
  readFloats(name: string, count: number, from = 0): Float32Array {
    if (this.port(name).dtype === "bf16") return widened(this.#read(name, from, new Uint16Array(count)));
    return this.#read(name, from, new Float32Array(count));
  }

  #read<T extends Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Uint16Array<ArrayBuffer>>(
    name: string,
    from: number,
    out: T,
  ): T {
    const port = this.port(name), begin = performance.now();
    if (!out.length) return out;
    this.segment(port.segment).read(port.offset + BYTES[port.dtype] * from, out);
    this.options.onTransfer?.({ to: "host", bytes: out.byteLength, begin, end: performance.now() });
    return out;
  }

  zero(name: Segment): void {
    const segment = this.segment(name);
    segment.fill(0, this.program.segmentBytes[name], 0);
  }

  /** Queues the program behind what the device already has and behind the jobs `after`. */
  submit(live: Live, after: readonly Job[] = []): Job {
    const dims = full(live), { groups, label, onJob, onTransfer } = this.options;
    if (this.#written) {
      // Writes with pauses between them count as one that ended with the last.
      const { bytes, ms, end } = this.#written;
      onTransfer?.({ to: "device", bytes, begin: end - ms, end });
    }
    this.#written = null;
    this.flops += this.program.flops(dims);
    const job = this.device.submit(this.#loaded, this.#segments, dims, {
      after,
      ...(groups && { groups: groups() }),
      ...(label !== undefined && { label }),
    });
    onJob?.(job);
    return job;
  }

  /** Queues the program and resolves when it ran. */
  async run(live: Live): Promise<void> {
    await this.submit(live).done;
  }

  dispose(): void {
    if (!this.options.loaded) this.#loaded.dispose();
    for (const segment of this.#own) segment.dispose();
  }
}

const full = (live: Live): Maxima => ({
  one: 1,
  tokens: live.tokens ?? 0,
  actions: live.actions ?? 0,
  sequences: live.sequences ?? 0,
  groups: live.groups ?? 0,
  pairs: live.pairs ?? 0,
  shard: live.shard ?? 0,
});
