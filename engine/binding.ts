/** A program with memory bound to its segments: write inputs by name, run, read outputs by name. */
import { elements, type Maxima, type Segment, SEGMENTS } from "../ir/op.ts";
import type { Port, Program } from "../ir/program.ts";
import { type Device, DeviceSegment, LoadedProgram } from "../ffi/device.ts";

/** Live dims of one submission; what is not named is 0. */
export type Live = Partial<Omit<Maxima, "one">>;

export class Binding {
  readonly #loaded: LoadedProgram;
  readonly #segments: Readonly<Partial<Record<Segment, DeviceSegment>>>;
  readonly #own: DeviceSegment[] = [];
  /** Floating point operations submitted so far. */
  flops = 0;

  /** Segments that are not shared are allocated here: a program's inputs and outputs are its own. */
  constructor(
    readonly device: Device,
    readonly program: Program,
    shared: Partial<Record<Segment, DeviceSegment>>,
  ) {
    this.#loaded = LoadedProgram.load(program);
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
      bound[name] = given ?? new DeviceSegment(bytes);
      if (!given) this.#own.push(bound[name]);
    }
    this.#segments = bound;
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
    if (data.byteLength > port.bytes) {
      throw new RangeError(`Cannot write ${name}: ${data.byteLength} bytes do not fit ${port.bytes}`);
    }
    if (data.byteLength) this.segment(port.segment).write(port.offset, data);
  }

  /** Writes a port when the program has it: programs read only what their outputs need. */
  offer(name: string, data: Float32Array | Int32Array): void {
    if (this.has(name)) this.write(name, data);
  }

  read(name: string, live: Live = {}): Float32Array {
    const port = this.port(name), out = new Float32Array(elements(port.shape, full(live)));
    if (out.length) this.segment(port.segment).read(port.offset, out);
    return out;
  }

  /** Reads `count` 32-bit integers from element `from` of a port. */
  readInts(name: string, count: number, from = 0): Int32Array {
    const port = this.port(name), out = new Int32Array(count);
    if (count) this.segment(port.segment).read(port.offset + 4 * from, out);
    return out;
  }

  readFloats(name: string, count: number, from = 0): Float32Array {
    const port = this.port(name), out = new Float32Array(count);
    if (count) this.segment(port.segment).read(port.offset + 4 * from, out);
    return out;
  }

  zero(name: Segment): void {
    const segment = this.segment(name);
    segment.fill(0, this.program.segmentBytes[name], 0);
  }

  /** Queues the program behind what the device already has; resolves when it ran. */
  run(live: Live): Promise<void> {
    const dims = full(live);
    this.flops += this.program.flops(dims);
    return this.device.submit(this.#loaded, this.#segments, dims);
  }

  dispose(): void {
    this.#loaded.dispose();
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
});
