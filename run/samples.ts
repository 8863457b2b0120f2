/** The first samples of a step, with all that is known about them, as samples.jsonl holds them. */
import { mainRollout } from "../ir/roles.ts";
import type { CallGraph } from "../ir/graph.ts";
import type { Batch } from "../engine/batch.ts";
import type { SampleRecord } from "../engine/metrics.ts";

/** How token ids are shown to people; `after` are the tokens before them. */
export interface Shown {
  /** The text that each token adds. */
  pieces(ids: Int32Array, after: Int32Array): readonly string[];
  /** The text of all, without special tokens. */
  text(ids: Int32Array, after: Int32Array): string;
}

/**
 * Records of the sequences of the rollout that is learned from, or of the data set's own.
 *
 * @param count records at most
 */
export function sampleRecords(
  graph: CallGraph,
  batch: Batch,
  step: number,
  count: number,
  shown: Shown,
): SampleRecord[] {
  const rollout = mainRollout(graph), field = rollout?.writes.tokens ?? "tokens";
  const column = batch.tokens.get(field), none = new Int32Array();
  if (!column) return [];
  const said = (name: string | undefined, s: number) => batch.texts.get(name ?? "")?.[s];
  return Array.from({ length: Math.min(count, batch.sequences) }, (_, s) => {
    const ids = column.ids[s]!, actions = column.actions[s]!, first = actions[0] ?? ids.length;
    const prompt = ids.subarray(0, first), response = actions.map((at) => ids[at]!);
    const perToken: Record<string, number[]> = {}, scores: Record<string, number> = {};
    for (const [name, values] of batch.numbers) {
      if (values.per === "token" && values.of === field) perToken[name] = [...values.values[s]!];
      else if (values.per === "sequence") scores[name] = values.values[s]!;
      else if (values.per === "pair") scores[name] = values.values[Math.floor(s / 2)]!;
    }
    return {
      step,
      index: batch.rowOf(s).index,
      ...(graph.source.kind === "pairs" && { role: s % 2 === 0 ? "chosen" as const : "rejected" as const }),
      prompt: said(rollout?.reads.prompt, s) ?? shown.text(prompt, none),
      tokens: shown.pieces(response, prompt),
      completion: said(rollout?.writes.response, s) ?? shown.text(response, prompt),
      perToken,
      scores,
      finished: scores[rollout?.writes.finished ?? ""] === 1,
      weightVersion: column.versions[s]!,
    };
  });
}
