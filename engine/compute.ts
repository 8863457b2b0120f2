/** Runs a compute call: traced arithmetic over the whole step batch. */
import type { ComputeCall } from "../ir/graph.ts";
import type { Batch } from "./batch.ts";
import type { Binding } from "./binding.ts";
import { groupEnds, writeFields } from "./infer.ts";

/** Folds are one chain of float32 additions, in which more ones than these add nothing. */
const MOST_ACTIONS = 2 ** 24;

/**
 * @returns every output of the program by name ("advantages", "state.klCoefficient")
 * @throws RangeError when it folds more actions than a fold can count
 */
export async function compute(
  binding: Binding,
  call: ComputeCall,
  batch: Batch,
  states: ReadonlyMap<string, number>,
): Promise<Record<string, Float32Array>> {
  const of = call.reads.tokens ?? null;
  const samples = Array.from({ length: batch.sequences }, (_, i) => i);
  const actionEnds = new Int32Array(batch.sequences);
  let actions = 0;
  if (of !== null) {
    for (const [i, a] of batch.tokensOf(of).actions.entries()) actionEnds[i] = actions += a.length;
  }
  if (actions > MOST_ACTIONS && foldsActions(call)) {
    throw new RangeError(
      `Cannot run ${call.id}: it sums over the step's ${actions} actions and float32 counts to ${MOST_ACTIONS}, lower the batch ` +
        `or fold per sequence first`,
    );
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

const foldsActions = ({ expr: { ops } }: ComputeCall): boolean =>
  ops.some((op) => (op.op === "sum" || op.op === "mean") && ops[op.args[0]!]!.per === "token");
