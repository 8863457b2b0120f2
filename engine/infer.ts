/** Runs an infer call: the batch in micro-batches, each output concatenated in the batch's order. */
import { type Batch, concatenate, cutMicroBatches, pack, type Packed, type TokenColumn } from "./batch.ts";
import type { Binding, Live } from "./binding.ts";

export type InferPort = "logprobs" | "entropy" | "values" | "finalValues" | "rewards";

/** Results per port, flat over the sequences of the batch. */
export async function infer(
  binding: Binding,
  column: TokenColumn,
  ports: readonly InferPort[],
  signal?: AbortSignal,
): Promise<Record<string, Float32Array>> {
  const lengths = column.ids.map((ids) => ids.length), parts: Record<string, Float32Array[]> = {};
  const { tokens: maxTokens, sequences: maxSequences } = binding.program.maxima;
  const runs = cutMicroBatches(lengths, lengths.map((_, i) => i), { maxTokens, maxSequences, together: 1 });
  for (const run of runs) {
    signal?.throwIfAborted();
    const packed = pack(column, run);
    writePacked(binding, packed, column.temperature);
    await binding.run(packed);
    for (const port of ports) (parts[port] ??= []).push(binding.read(`outputs/${port}`, packed));
  }
  return Object.fromEntries(ports.map((port) => [port, concatenate(parts[port] ?? [])]));
}

/** Writes what every program over packed sequences may read. */
export function writePacked(binding: Binding, packed: Packed, temperature: number): void {
  binding.offer("inputs/ids", packed.ids);
  binding.offer("inputs/positions", packed.positions);
  binding.offer("inputs/ends", packed.ends);
  binding.offer("inputs/rows", packed.rows);
  binding.offer("inputs/targets", packed.targets);
  binding.offer("inputs/actionEnds", packed.actionEnds);
  binding.offer("inputs/lastRows", packed.lastRows);
  binding.offer("inputs/inverseTemperature", Float32Array.of(1 / temperature));
}

/** Ends of the groups (samples of one prompt) among `sequences` neighbours. */
export const groupEnds = (sequences: number, group: number): Int32Array =>
  Int32Array.from({ length: sequences / group }, (_, i) => (i + 1) * group);

/** Every field and state that a traced expression reads, for some samples: exactly as many values as `live` says. */
export function writeFields(
  binding: Binding,
  batch: Batch,
  samples: readonly number[],
  states: ReadonlyMap<string, number>,
  live: Live,
): void {
  for (const path of Object.keys(binding.program.ports)) {
    if (path.startsWith("inputs/field.")) {
      binding.write(path, batch.flat(path.slice("inputs/field.".length), samples), live);
    } else if (path.startsWith("inputs/state.")) {
      binding.write(path, Float32Array.of(states.get(path.slice("inputs/state.".length))!));
    }
  }
}
