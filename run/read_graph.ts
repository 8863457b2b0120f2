/** The part of a run's preparation that does not depend on its plan: data, their sizes, where responses stop. */
import type { DataSizes } from "../compiler/programs.ts";
import { checkGraph } from "../ir/check.ts";
import { canonical, digest } from "../ir/digest.ts";
import type { CallGraph, GenerateCall } from "../ir/graph.ts";
import { type DataSet, loadData } from "../engine/data.ts";
import type { LoadedModel } from "./models.ts";
import { dataSizes } from "./sizes.ts";

/** A graph with the data that its steps read. */
export interface ReadGraph {
  readonly graph: CallGraph;
  readonly digest: string;
  readonly data: DataSet;
  readonly sizes: DataSizes;
  readonly stops: Readonly<Record<string, readonly number[]>>;
}

/**
 * Checks the graph and reads its data.
 *
 * @param earlier graphs of the same run: data that one of them has read is not read again
 */
export async function readGraph(
  graph: CallGraph,
  models: Readonly<Record<string, LoadedModel>>,
  seed: number,
  earlier: readonly ReadGraph[],
): Promise<ReadGraph> {
  checkGraph(graph);
  const actor = tokenizerOwner(graph, models),
    generates = graph.calls.filter((c): c is GenerateCall => c.kind === "generate");
  const maxPositions = Math.min(
    ...Object.values(models).filter((m) => m.spec.head !== "reward").map((m) => m.config.maxPositions),
  );
  const sameData = earlier.find((e) =>
    canonical(e.graph.source) === canonical(graph.source) && tokenizerOwner(e.graph, models) === actor &&
    e.graph.calls.some((c) => c.kind === "generate") === generates.length > 0
  );
  const data = sameData?.data ?? await loadData(graph.source, {
    seed,
    tokenizer: actor.tokenizer,
    vocabulary: actor.config.vocab,
    maxTokens: generates.length ? maxPositions - 1 : maxPositions,
  });
  const sizes = dataSizes(graph, data, maxPositions, actor.tokenizer);
  checkMiniBatches(graph, sizes);
  const stops = Object.fromEntries(generates.map((c) => [c.id, stopIds(c, models[c.model]!)]));
  return { graph, digest: digest(graph), data, sizes, stops };
}

/** Every mini-batch has at least one group: said before anything is written rather than in the first step. */
function checkMiniBatches(graph: CallGraph, sizes: DataSizes): void {
  const groups = sizes.sequences / sizes.group;
  for (const call of graph.calls) {
    if (call.kind !== "train" || call.minibatches <= groups) continue;
    throw new RangeError(
      `Cannot run ${graph.name}: ${call.id} makes ${call.minibatches} mini-batches of a batch with ${groups} groups, ` +
        `lower minibatches or raise the batch`,
    );
  }
}

/** The model whose tokenizer reads the data: the one that generates, else the first that reads tokens. */
export function tokenizerOwner(graph: CallGraph, models: Readonly<Record<string, LoadedModel>>): LoadedModel {
  const call = graph.calls.find((c) => c.kind === "generate") ?? graph.calls.find((c) => "model" in c);
  if (!call || !("model" in call)) {
    throw new Error(`Cannot run ${graph.name}: no call uses a model, give its flow a call of one`);
  }
  return models[call.model]!;
}

/** Without a tokenizer the ids of config.json are all there is. */
function stopIds(call: GenerateCall, model: LoadedModel): readonly number[] {
  if (call.sampling.ignoreEos) return call.sampling.stop;
  return [...new Set([...call.sampling.stop, ...(model.tokenizer?.stopIds ?? model.config.eosTokens)])];
}
