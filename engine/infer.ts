/** Runs an infer call: the batch shared out to data-parallel ranks, in micro-batches, each result put in the batch's order. */
import { joinFloats } from "./arrays.ts";
import { type Batch, cutMicroBatches, pack, type Packed, type TokenColumn } from "./batch.ts";
import type { Live } from "./binding.ts";
import type { Staged } from "./lanes.ts";
import { share } from "./partition.ts";
import { settleAll } from "./settle.ts";

export type InferPort = "logprobs" | "entropy" | "values" | "finalValues" | "rewards";
/** What inputs are written to: a program, or all stages of one. */
export type Inputs = Pick<Staged, "offer" | "write" | "has">;

/** Ports with one value per action; the others have one per sequence. */
const PER_ACTION: readonly string[] = ["logprobs", "entropy", "values"];

/**
 * Results per port, flat over the sequences of the batch.
 *
 * @param replicas data-parallel replicas; each has as many micro-batches in flight as it has bindings
 */
export async function infer(
  replicas: readonly (readonly Staged[])[],
  column: TokenColumn,
  ports: readonly InferPort[],
  signal?: AbortSignal,
): Promise<Record<string, Float32Array>> {
  const lengths = column.ids.map((ids) => ids.length), samples = lengths.map((_, i) => i);
  const parts = share(samples, { parts: replicas.length, together: 1, weight: (s) => lengths[s]! });
  const values = new Map(ports.map((port) => [port, new Array<Float32Array>(samples.length)]));
  await settleAll(replicas.map((slots, dp) => inferPart(slots, column, parts[dp]!, values, signal)));
  return Object.fromEntries([...values].map(([port, of]) => [port, joinFloats(of)]));
}

async function inferPart(
  slots: readonly Staged[],
  column: TokenColumn,
  samples: readonly number[],
  values: ReadonlyMap<InferPort, Float32Array[]>,
  signal?: AbortSignal,
): Promise<void> {
  const lengths = column.ids.map((ids) => ids.length), { maxima } = slots[0]!.result.program;
  const limits = { maxTokens: maxima.tokens, maxSequences: maxima.sequences, together: 1 };
  const pending: Promise<void>[] = [];
  const collect = (from: Staged, run: readonly number[], packed: Packed): void => {
    for (const [port, of] of values) {
      const flat = from.read(`outputs/${port}`, packed);
      let at = 0;
      for (const s of run) {
        of[s] = flat.subarray(at, at += PER_ACTION.includes(port) ? column.actions[s]!.length : 1);
      }
    }
  };
  try {
    for (const [i, run] of cutMicroBatches(lengths, samples, limits).entries()) {
      // The binding's memory is free again once the micro-batch that had it before is read.
      await pending[i - slots.length];
      signal?.throwIfAborted();
      const slot = slots[i % slots.length]!, packed = pack(column, run);
      writePacked(slot, packed, column.temperature);
      pending.push(slot.run(packed).then(() => collect(slot, run, packed)));
      pending.at(-1)!.catch(() => {});
    }
  } finally {
    await Promise.allSettled(pending);
  }
  await settleAll(pending);
}

/** Writes what every program over packed sequences may read. */
export function writePacked(to: Inputs, packed: Packed, temperature: number): void {
  to.offer("inputs/ids", packed.ids);
  to.offer("inputs/positions", packed.positions);
  to.offer("inputs/ends", packed.ends);
  to.offer("inputs/rows", packed.rows);
  to.offer("inputs/targets", packed.targets);
  to.offer("inputs/actionEnds", packed.actionEnds);
  to.offer("inputs/lastRows", packed.lastRows);
  if (packed.kept) to.offer("inputs/kept", packed.kept);
  to.offer("inputs/inverseTemperature", Float32Array.of(1 / temperature));
}

/** Ends of the groups (samples of one prompt) among `sequences` neighbours. */
export const groupEnds = (sequences: number, group: number): Int32Array =>
  Int32Array.from({ length: sequences / group }, (_, i) => (i + 1) * group);

/** Every field and state that the ports of a traced expression name, for some samples: exactly as many values as `live` says. */
export function writeFields(
  to: Inputs,
  ports: readonly string[],
  batch: Batch,
  samples: readonly number[],
  states: ReadonlyMap<string, number>,
  live: Live,
): void {
  for (const path of ports) {
    if (path.startsWith("inputs/field.")) {
      to.write(path, batch.flat(path.slice("inputs/field.".length), samples), live);
    } else if (path.startsWith("inputs/state.")) {
      to.write(path, Float32Array.of(states.get(path.slice("inputs/state.".length))!));
    }
  }
}
