/** What the data of a run bounds: how long its prompts and sequences are, and how many share a group. */
import type { DataSizes } from "../compiler/programs.ts";
import type { CallGraph, GenerateCall } from "../ir/graph.ts";
import type { DataSet, Sample } from "../engine/data.ts";
import type { ActionTokens, Tokenizer } from "../engine/tokenizer.ts";

/**
 * @param maxPositions context of the models
 * @param tokenizer what encodes prompts that are other texts than the data set's own
 * @throws RangeError when generate calls differ in samples, or a text that is a prompt fits no context
 */
export function dataSizes(
  graph: CallGraph,
  data: DataSet,
  maxPositions: number,
  tokenizer: Tokenizer | null,
): DataSizes {
  const generates = graph.calls.filter((c): c is GenerateCall => c.kind === "generate");
  const rows = [...data.training, ...data.heldOut];
  const most = (f: (s: Sample) => number) => rows.reduce((m, s) => Math.max(m, f(s)), 0);
  const over = (f: (t: ActionTokens) => number) =>
    most((s) => Math.max(0, ...sequencesOf(s).map((tokens) => f(tokens))));
  const given = over((t) => t.ids.length), actions = over((t) => t.actions.length);
  if (!generates.length) {
    const group = graph.source.kind === "pairs" ? 2 : 1;
    return {
      sequences: graph.source.batch * group,
      group,
      longestPrompt: 0,
      longest: given,
      longestResponse: actions,
    };
  }
  const samples = sameSamples(graph, generates),
    maxNew = Math.max(...generates.map((c) => c.sampling.maxNewTokens));
  const longestPrompt = Math.max(
    ...generates.map((c) => longestPromptOf(c, graph, data, maxPositions, tokenizer)),
  );
  return {
    sequences: graph.source.batch * samples,
    group: samples,
    longestPrompt,
    longest: Math.max(given, Math.min(longestPrompt + maxNew, maxPositions)),
    longestResponse: Math.max(actions, maxNew),
  };
}

/** Every token sequence that a row holds beside its prompt. */
const sequencesOf = ({ tokens, rejected, fields }: Sample): ActionTokens[] =>
  [tokens, rejected, ...Object.values(fields)].filter((t) => typeof t === "object");

function sameSamples(graph: CallGraph, generates: readonly GenerateCall[]): number {
  const first = generates[0]!, { samples } = first.sampling;
  const other = generates.find((c) => c.sampling.samples !== samples);
  if (other) {
    throw new RangeError(
      `Cannot run ${graph.name}: ${first.id} makes ${samples} samples per prompt and ${other.id} ` +
        `${other.sampling.samples}, generate calls of one workflow make the same number`,
    );
  }
  return samples;
}

/** Tokens of the longest prompt of a call: the data set's own, another text of it, or another call's response. */
function longestPromptOf(
  call: GenerateCall,
  graph: CallGraph,
  data: DataSet,
  maxPositions: number,
  tokenizer: Tokenizer | null,
): number {
  const field = call.reads.prompt!, rows = [...data.training, ...data.heldOut];
  if (field === "prompt") return rows.reduce((n, s) => Math.max(n, s.prompt?.ids.length ?? 0), 0);
  const writer = graph.calls.find((c): c is GenerateCall =>
    c.kind === "generate" && c.writes.response === field
  );
  if (writer) return Math.min(writer.sampling.maxNewTokens, maxPositions - 1);
  if (!tokenizer) {
    throw new TypeError(
      `Cannot generate in ${call.id}: its prompts are the texts of "${field}" and its model has no tokenizer, ` +
        `give a folder with tokenizer.json`,
    );
  }
  return rows.reduce((longest, row) => {
    const tokens = tokenizer.encode(row.fields[field] as string).length;
    if (tokens === 0 || tokens >= maxPositions) {
      throw new RangeError(
        `Cannot read data: ${data.path}:${
          row.index + 1
        }: "${field}" is a prompt of ${tokens} tokens and 1 to ` +
          `${maxPositions - 1} fit the context, change or remove the line`,
      );
    }
    return Math.max(longest, tokens);
  }, 0);
}
