/** A model on a device for tests: parameters in and out under Hugging Face's names and shapes. */
import { Binding } from "../../engine/binding.ts";
import type { Memberships } from "../../engine/devices.ts";
import { fromStored, toStored } from "../stored.ts";
import { type Device, DeviceSegment } from "../../ffi/device.ts";
import type { LocalParameter, Shard } from "../../compiler/layout.ts";
import { gradientBytes, parameterBytes, ropeTable, tiedGradient } from "../../compiler/models/transformer.ts";
import { storageOf } from "../../compiler/models/storage.ts";
import { ALL, momentBytes, ownPieces, type Share } from "../../compiler/zero.ts";
import { room, storedAs, widened } from "../../engine/half.ts";
import { BYTES, type Segment } from "../../ir/op.ts";
import type { Parameter, Program } from "../../ir/program.ts";

export interface RunnerOptions {
  /** The rank's part of the optimizer's state; all of it otherwise. */
  readonly share?: Share;
  /** Where its programs meet those of other ranks. */
  readonly groups?: () => Memberships;
}

/** One rank of a model with memory of its own; most tests have one rank that holds all of it. */
export class ModelRunner implements Disposable {
  readonly segments: Partial<Record<Segment, DeviceSegment>>;
  readonly #bindings: Binding[] = [];

  constructor(readonly device: Device, readonly shard: Shard, readonly o: RunnerOptions = {}) {
    const table = ropeTable(shard.config, shard.config.maxPositions);
    this.segments = {
      params: new DeviceSegment(parameterBytes(this.parameters)),
      grads: new DeviceSegment(gradientBytes(shard)),
      moments: new DeviceSegment(Math.max(64, momentBytes(shard, o.share ?? ALL))),
      constants: new DeviceSegment(table.byteLength),
    };
    this.segments.constants!.write(0, table);
  }

  get parameters(): readonly LocalParameter[] {
    return this.shard.parameters;
  }

  /** A program that shares the model's memory; its other segments are its own, or `more`. */
  bind(program: Program, more: Partial<Record<Segment, DeviceSegment>> = {}): Binding {
    const { groups } = this.o, shared = { ...this.segments, ...more };
    const binding = new Binding(this.device, program, shared, { ...(groups && { groups }) });
    this.#bindings.push(binding);
    return binding;
  }

  /** Keeps the rank's piece of a whole tensor. */
  write(p: LocalParameter, whole: Float32Array): void {
    const stored = toStored(p, pieceOf(p, whole));
    this.segments.params!.write(p.offset, storedAs(stored, p.dtype));
    // What programs have rounded is updated from a master copy.
    for (const { parameter, from, to, master } of ownPieces(this.shard, this.o.share ?? ALL)) {
      if (parameter !== p || master === null) continue;
      this.segments.moments!.write(master, stored.subarray(from, to));
    }
  }

  /** The rank's piece of a parameter or of its gradient; before the optimizer ran, a tied embedding has two gradients. */
  read(p: LocalParameter, segment: "params" | "grads"): Float32Array {
    const own = fromStored(p, this.#stored(p, segment)), tied = tiedGradient(this.shard);
    if (segment !== "grads" || !tied?.name.endsWith(p.name)) return own;
    return fromStored(tied, this.#stored(tied, "grads")).map((x, i) => x + own[i]!);
  }
  #stored(p: Parameter, segment: "params" | "grads"): Float32Array {
    const dtype = segment === "params" ? p.dtype : p.gradient, offset = p.offset / BYTES[p.dtype];
    return widened(this.segments[segment]!.read(offset * BYTES[dtype], room(dtype, p.elements)));
  }

  /** The whole gradient segment. */
  gradients(): Float32Array {
    const { grads } = this.segments, { gradients } = storageOf(this.shard.config);
    return widened(grads!.read(0, room(gradients, grads!.bytes / BYTES[gradients])));
  }

  zeroGradients(): void {
    const { grads } = this.segments;
    grads!.fill(0, grads!.bytes, 0);
  }

  [Symbol.dispose](): void {
    for (const b of this.#bindings) b.dispose();
    for (const s of Object.values(this.segments)) s.dispose();
  }
}

/** A rank's piece of a whole tensor. */
function pieceOf({ slice, global }: LocalParameter, whole: Float32Array): Float32Array {
  if (!slice) return whole;
  const [rows, width = 1] = global as [number, number?], { from, to } = slice;
  if (slice.dim === 0) return whole.slice(from * width, to * width);
  const piece = new Float32Array(rows * (to - from));
  for (let r = 0; r < rows; r++) piece.set(whole.subarray(r * width + from, r * width + to), r * (to - from));
  return piece;
}

/** Numbers from a counter, uniform in [−1, 1): enough randomness for tests and the same everywhere. */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = state + 0x6d2b79f5 >>> 0;
    let t = Math.imul(state ^ state >>> 15, 1 | state);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 31 - 1;
  };
}

/** Sequences as `engine/batch.ts` packs them; every token but a sequence's first is an action unless `prompt` says more. */
export function packed(sequences: readonly (readonly number[])[], prompt = 1) {
  const ids: number[] = [],
    positions: number[] = [],
    ends: number[] = [],
    rows: number[] = [],
    targets: number[] = [];
  const actionEnds: number[] = [], lastRows: number[] = [];
  for (const sequence of sequences) {
    sequence.forEach((id, i) => {
      if (i >= prompt) {
        rows.push(ids.length - 1);
        targets.push(id);
      }
      ids.push(id);
      positions.push(i);
    });
    ends.push(ids.length);
    actionEnds.push(rows.length);
    lastRows.push(ids.length - 1);
  }
  const live = {
    tokens: ids.length,
    actions: rows.length,
    sequences: sequences.length,
  };
  return { live, ports: { ids, positions, ends, rows, targets, actionEnds, lastRows } };
}

/** Writes packed sequences and a temperature of 1 to a program. */
export function writeBatch(binding: Binding, batch: ReturnType<typeof packed>): void {
  for (const [name, values] of Object.entries(batch.ports)) {
    binding.offer(`inputs/${name}`, Int32Array.from(values));
  }
  binding.offer("inputs/inverseTemperature", Float32Array.of(1));
}

/** Runs the fold of a train program that ran last: loss and metrics by name, "metric.kl". */
export async function fold(train: Binding, program: Program): Promise<Record<string, number>> {
  const binding = new Binding(train.device, program, {}), names = Object.keys(program.ports);
  try {
    for (const name of names.filter((name) => name.startsWith("inputs/"))) {
      binding.write(
        name,
        train.read(name.startsWith("inputs/sum.") ? name.replace("inputs", "outputs") : name),
      );
    }
    await binding.run({});
    const outputs = names.filter((name) => name.startsWith("outputs/"));
    return Object.fromEntries(outputs.map((name) => [name.slice("outputs/".length), binding.read(name)[0]!]));
  } finally {
    binding.dispose();
  }
}

export const sameBits = (a: Float32Array, b: Float32Array): boolean => {
  const x = new Uint32Array(a.buffer, a.byteOffset, a.length),
    y = new Uint32Array(b.buffer, b.byteOffset, b.length);
  return x.length === y.length && x.every((v, i) => v === y[i]);
};
/** √(Σ(a − b)² ÷ Σb²). */
export const relativeError = (a: Float32Array, b: Float32Array): number => {
  const norm = (f: (i: number) => number) => Math.sqrt(b.reduce((s, _, i) => s + f(i) ** 2, 0));
  return norm((i) => a[i]! - b[i]!) / norm((i) => b[i]!);
};
export const largestError = (a: Float32Array, b: ArrayLike<number>): number =>
  a.length === b.length ? a.reduce((m, x, i) => Math.max(m, Math.abs(x - b[i]!)), 0) : NaN;
