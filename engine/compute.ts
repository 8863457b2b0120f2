/** Runs a compute call: traced arithmetic over the whole step batch. */
import type { Batch } from "./batch.ts";
import type { Binding } from "./binding.ts";
import { groupEnds, writeFields } from "./infer.ts";

/**
 * @param of the token field whose actions the call's per-token fields belong to
 * @returns every output of the program by name ("advantages", "state.klCoefficient")
 */
export async function compute(
  binding: Binding,
  batch: Batch,
  of: string | null,
  states: ReadonlyMap<string, number>,
): Promise<Record<string, Float32Array>> {
  const samples = Array.from({ length: batch.sequences }, (_, i) => i);
  const actionEnds = new Int32Array(batch.sequences);
  let actions = 0;
  if (of !== null) {
    for (const [i, a] of batch.tokensOf(of).actions.entries()) actionEnds[i] = actions += a.length;
  }
  const live = {
    actions,
    sequences: batch.sequences,
    groups: batch.sequences / batch.group,
    pairs: Math.floor(batch.sequences / 2),
  };
  binding.offer("inputs/actionEnds", actionEnds);
  binding.offer("inputs/groupEnds", groupEnds(batch.sequences, batch.group));
  writeFields(binding, Object.keys(binding.program.ports), batch, samples, states, live);
  await binding.run(live);
  return Object.fromEntries(
    Object.keys(binding.program.ports).filter((path) => path.startsWith("outputs/"))
      .map((path) => [path.slice("outputs/".length), binding.read(path, live)]),
  );
}
