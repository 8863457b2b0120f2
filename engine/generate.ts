/** The programs of a generate call with their memory: prefill, decode and page copies share one KV cache and one state. */
import type { Device, DeviceSegment } from "../ffi/device.ts";
import type { Segment } from "../ir/op.ts";
import type { Program } from "../ir/program.ts";
import { Binding } from "./binding.ts";
import type { GenerateRequest, GenerateSizes, Response } from "./request.ts";
import { Rollout } from "./rollout.ts";

export class Generator {
  readonly #prefill: Binding;
  readonly #decode: Binding;
  readonly #copy: Binding;

  constructor(
    device: Device,
    programs: { readonly prefill: Program; readonly decode: Program; readonly copyPages: Program },
    readonly sizes: GenerateSizes,
    shared: Partial<Record<Segment, DeviceSegment>>,
    own: { readonly [P in "prefill" | "decode" | "copyPages"]?: Partial<Record<Segment, DeviceSegment>> } =
      {},
  ) {
    this.#prefill = new Binding(device, programs.prefill, { ...shared, ...own.prefill });
    this.#decode = new Binding(device, programs.decode, { ...shared, ...own.decode });
    this.#copy = new Binding(device, programs.copyPages, { ...shared, ...own.copyPages });
  }

  /** Responses in the order of prompts, samples of one prompt as neighbours. */
  run(request: GenerateRequest): Promise<Response[]> {
    return new Rollout(this.#prefill, this.#decode, this.#copy, this.sizes, request).run();
  }

  /** Floating point operations submitted so far. */
  get flops(): number {
    return this.#prefill.flops + this.#decode.flops;
  }

  dispose(): void {
    for (const b of [this.#prefill, this.#decode, this.#copy]) b.dispose();
  }
}
