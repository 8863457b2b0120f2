/** The least time that a case can take on this machine: its operations at the rate of multiply-adds, its bytes at that of memory. */
import type { ModelConfig } from "../compiler/models/config.ts";
import type { Device } from "../ffi/device.ts";
import { usefulFlops } from "./cases.ts";
import { peakGflops } from "./measure.ts";

/** Work that nothing else can hide: it takes the longer of its operations and its bytes. */
export interface Phase {
  readonly flops: number;
  readonly bytes: number;
  /** Bytes that are read again and again with these: they decide which cache can hold them. */
  readonly workingSet: number;
}

/** What the machine can do with the threads of a device. */
export interface Rates {
  /** Fused multiply-adds in registers. */
  readonly gflops: number;
  /** Bandwidth of reading as many bytes again and again, smallest first. */
  readonly read: readonly { readonly bytes: number; readonly gbps: number }[];
}

const MB = 2 ** 20, SETS = [0.25, 1, 4, 8, 16, 32, 64, 256];

/** Measures an idle device, two seconds long: the best of some, since a neighbour must not lower the bar. */
export function measureRates(device: Device): Rates {
  const best = (f: () => number) => Math.max(...Array.from({ length: 9 }, f));
  return {
    gflops: best(() => peakGflops(device)),
    read: SETS.map((mb) => {
      const times = Math.max(1, 64 / mb), values = mb * MB / 4;
      return {
        bytes: mb * MB,
        gbps: best(() =>
          times * mb * MB / device.productSeconds("read", times, values / 1024, 1024, 1) / 1e9
        ),
      };
    }),
  };
}

/** Seconds below which no implementation comes that makes the same result with as much arithmetic. */
export function floorSeconds(phases: readonly Phase[], rates: Rates): number {
  const bandwidth = (bytes: number) => (rates.read.find((r) => r.bytes >= bytes) ?? rates.read.at(-1)!).gbps;
  return phases.reduce(
    (sum, p) => sum + Math.max(p.flops / rates.gflops, p.bytes ? p.bytes / bandwidth(p.workingSet) : 0) / 1e9,
    0,
  );
}

/** Parameters that products read: all but the embedding, and the norms, which are few. */
export function productWeights(c: ModelConfig): number {
  const kv = c.headDim * c.kvHeads;
  return c.layers * (2 * c.hidden * c.hidden + 2 * c.hidden * kv + 3 * c.hidden * c.intermediate) +
    c.hidden * c.vocab;
}

/** AdamW reads parameter, gradient and both moments and writes all but the gradient: 28 bytes each. */
export function updatePhase(c: ModelConfig): Phase {
  const bytes = 28 * (productWeights(c) + c.hidden * c.vocab);
  return { flops: 0, bytes, workingSet: bytes };
}

/** A rollout of groups: `prompts` contexts once, then a token less than the completion, since the prefill makes the first. */
export function rolloutPhases(
  c: ModelConfig,
  o: {
    readonly prompts: number;
    readonly group: number;
    readonly prompt: number;
    readonly completion: number;
  },
): Phase[] {
  const prefill = usefulFlops(c, o.prompts * o.prompt, o.prompt / 2, o.prompts);
  return [
    { flops: prefill, bytes: 0, workingSet: 0 },
    ...decodePhases(c, o.prompts * o.group, o.prompt, o.prompt + o.completion - 1),
  ];
}

/** A training step over whole sequences, `actions` tokens of each in the loss: three forward passes, and the update. */
export function trainingPhases(c: ModelConfig, sequences: number, length: number, actions: number): Phase[] {
  const forward = usefulFlops(c, sequences * length, length / 2, sequences * actions);
  return [{ flops: 3 * forward, bytes: 0, workingSet: 0 }, updatePhase(c)];
}

/** Decode steps of `rows` sequences whose contexts grow from `from` to `to`: the weights once a step, then every row's keys and values. */
export function decodePhases(c: ModelConfig, rows: number, from: number, to: number): Phase[] {
  const weights = productWeights(c), kvWidth = 2 * c.layers * c.headDim * c.kvHeads;
  return Array.from({ length: to - from }, (_, i) => i + from + 1).flatMap((context) => {
    const kv = 4 * rows * context * kvWidth, workingSet = 4 * weights + kv;
    return [
      { flops: 2 * rows * weights, bytes: 4 * weights, workingSet },
      { flops: 4 * rows * context * c.layers * c.hidden, bytes: kv, workingSet },
    ];
  });
}
