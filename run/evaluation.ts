/** What a held-out evaluation says: the reward with its error, diversity and length of the responses, and the responses. */
import type { CallGraph, GenerateCall } from "../ir/graph.ts";
import { mainRollout, referenceOf, rewardOf } from "../ir/roles.ts";
import type { Batch } from "../engine/batch.ts";
import type { DataSet } from "../engine/data.ts";
import type { Sample } from "../engine/sample.ts";
import { distinct2, divergence, type Estimate, estimate, meanOf } from "../engine/stats.ts";

/** A prompt, what the policy said, and what that is worth. */
export interface EvaluatedSample {
  readonly prompt: string;
  readonly response: string;
  /** Null where the flow computes none. */
  readonly reward: number | null;
}

/** How the responses look to the reference model. */
export interface ReferenceFigures {
  /** KL(policy ‖ reference), estimates k1 and k3. */
  readonly klK1: number;
  readonly klK3: number;
  /** Mean negative log-likelihood of the responses: whether they still read like the reference's own. */
  readonly loss: number;
}

/** What a held-out evaluation came to. */
export interface Evaluation {
  readonly sequences: number;
  /** Rows of the data set. Their sequences share a prompt, so standard errors are over rows. */
  readonly rows: number;
  /** Every per-sequence field that the evaluation computed ("rewards", "length"), by name. */
  readonly fields: Readonly<Record<string, Estimate>>;
  /** Which of them is the reward. */
  readonly reward: string | null;
  /** Distinct bigrams over all bigrams of the responses. */
  readonly distinct2: number;
  /** Against the reference, when the flow infers another policy's log-probabilities; nats per token. */
  readonly reference: ReferenceFigures | null;
  readonly samples: readonly EvaluatedSample[];
}

/** A line of evaluations.jsonl. */
export interface EvaluationRecord extends Evaluation {
  /** Steps that the models had made. */
  readonly step: number;
  readonly when: "before" | "resumed" | "between" | "after";
}

/**
 * The rows that an evaluation uses: those held out of its data set, or all where nothing is.
 *
 * @throws RangeError when there are fewer than asked for
 */
export function heldOutRows(
  data: Pick<DataSet, "training" | "heldOut" | "path">,
  count: number,
): readonly Sample[] {
  const rows = data.heldOut.length ? data.heldOut : data.training;
  if (rows.length < count) {
    throw new RangeError(
      `Cannot evaluate on ${count} rows of ${data.path}: ${rows.length} ${
        data.heldOut.length
          ? "are held out, lower evaluate.prompts or raise heldOut"
          : "are there, lower evaluate.prompts"
      }`,
    );
  }
  return rows.slice(0, count);
}

/**
 * @param graph of the evaluation
 * @param trained graph of the workflow, which says whose responses they are about
 */
export function evaluationOf(graph: CallGraph, batches: readonly Batch[], trained: CallGraph): Evaluation {
  const rollout = mainRollout(graph, trained), reward = rewardOf(graph, rollout);
  const texts = (field: string | undefined) => batches.flatMap((b) => b.texts.get(field ?? "") ?? []);
  const numbers = (field: string) =>
    batches.flatMap((b) => {
      const column = b.numbers.get(field);
      return column?.per === "sequence" ? [...column.values] : [];
    });
  const computed = Object.entries(graph.fields).filter(([name, type]) =>
    type.per === "sequence" && type.dtype === "f32" && !(name in graph.source.fields)
  );
  const responses = texts(rollout?.writes.response),
    prompts = texts(rollout?.reads.prompt),
    rewards = reward === null ? [] : numbers(reward);
  const group = batches[0]?.group ?? 1;
  return {
    sequences: batches.reduce((n, b) => n + b.sequences, 0),
    rows: batches.reduce((n, b) => n + b.rows.length, 0),
    fields: Object.fromEntries(computed.map(([name]) => [name, estimate(numbers(name), group)])),
    reward,
    distinct2: distinct2(responses),
    reference: rollout && referenceFigures(graph, rollout, batches),
    samples: responses.map((response, i) => ({
      prompt: prompts[i] ?? "",
      response,
      reward: rewards[i] ?? null,
    })),
  };
}

function referenceFigures(
  graph: CallGraph,
  rollout: GenerateCall,
  batches: readonly Batch[],
): ReferenceFigures | null {
  const reference = referenceOf(graph, rollout);
  if (!rollout.writes.logprobs || !reference) return null;
  const rows = (field: string) =>
    batches.flatMap((b) => {
      const column = b.numbersOf(field);
      return column.per === "token" ? column.values : [];
    });
  const theirs = rows(reference.writes.logprobs!);
  return { ...divergence(rows(rollout.writes.logprobs), theirs), loss: -meanOf(theirs) };
}
