/** One copy of a model's parameters on a device, with what training needs, and the version that it has. */
import { gradientBytes, parameterBytes } from "../compiler/models/transformer.ts";
import type { Head } from "../ir/graph.ts";
import type { Parameter } from "../ir/program.ts";
import type { Segment } from "../ir/op.ts";
import { DeviceSegment } from "../ffi/device.ts";

export class Replica {
  /** Completed train calls on this model (DESIGN §1.7). */
  version = 0;
  /** Optimizer updates made. */
  updates = 0;
  readonly segments: Partial<Record<Segment, DeviceSegment>>;
  readonly #bytes: number;

  /** @param constants contents of the constants segment (the rotary table) */
  constructor(
    readonly name: string,
    readonly head: Head,
    readonly parameters: readonly Parameter[],
    constants: Float32Array,
    readonly trained: boolean,
  ) {
    this.#bytes = parameterBytes(parameters);
    const table = new DeviceSegment(constants.byteLength);
    table.write(0, constants);
    this.segments = {
      params: new DeviceSegment(this.#bytes),
      constants: table,
      ...(trained &&
        { grads: new DeviceSegment(gradientBytes(parameters)), moments: new DeviceSegment(2 * this.#bytes) }),
    };
  }

  /** Writes one parameter in its stored layout. */
  write(p: Parameter, stored: Float32Array): void {
    this.segments.params!.write(p.offset, stored);
  }

  /** One parameter (or one of its moments) in its stored layout. */
  read(p: Parameter, what: "param" | "m" | "v" = "param"): Float32Array {
    const out = new Float32Array(p.elements);
    if (what === "param") this.segments.params!.read(p.offset, out);
    else this.segments.moments!.read(p.offset + (what === "v" ? this.#bytes : 0), out);
    return out;
  }

  writeMoment(p: Parameter, what: "m" | "v", stored: Float32Array): void {
    this.segments.moments!.write(p.offset + (what === "v" ? this.#bytes : 0), stored);
  }

  dispose(): void {
    for (const segment of Object.values(this.segments)) segment.dispose();
  }
}
