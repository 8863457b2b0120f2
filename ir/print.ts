/** Printed forms of a call graph: a text table and a Mermaid flowchart. */
import type { Call, CallGraph, SourceSpec } from "./graph.ts";

/** A graph, or a flow that no data set closes yet. */
export type PrintableGraph = Omit<CallGraph, "source"> & { readonly source: SourceSpec | null };

const UNITS = { prompts: "prompts", conversations: "conversations", pairs: "pairs" } as const;

/** A number as people write it: 1e-6, 0.05, 12.5. */
const short = (x: number): string =>
  x !== 0 && Math.abs(x) < 1e-3 ? Number(x.toPrecision(6)).toExponential() : String(Number(x.toPrecision(6)));

/** Rows of cells in columns as wide as their widest cell. */
export function columns(rows: readonly (readonly string[])[], indent = "  "): string {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => widths[i] = Math.max(widths[i] ?? 0, cell.length));
  return rows.map((row) => (indent + row.map((cell, i) => cell.padEnd(widths[i]!)).join("  ")).trimEnd())
    .join("\n");
}

/**
 * A graph as a text table: models, then calls with what they read and write.
 * @param options `sites: false` leaves out the lines of the script
 */
export function printGraph(graph: PrintableGraph, options: { readonly sites?: boolean } = {}): string {
  const parts = [head(graph)];
  const models = Object.entries(graph.models);
  if (models.length) {
    parts.push(columns(models.map(([name, m]) => {
      const optimizer = m.optimizer
        ? `${m.optimizer.name} lr ${short(m.optimizer.lr)}${m.lora ? `, adapter of rank ${m.lora.rank}` : ""}`
        : m.ema
        ? `follows ${m.ema.of}, eta ${short(m.ema.eta)}`
        : "frozen";
      return [name, m.head, m.checkpoint, optimizer];
    })));
  }
  const states = Object.entries(graph.states);
  if (states.length) parts.push(columns(states.map(([name, init]) => ["state", name, `starts at ${init}`])));
  parts.push(columns(graph.calls.map((call) => [
    call.id,
    `${names(readsOf(call))} → ${names(writesOf(call)) || changed(call)}`,
    details(call),
    options.sites === false ? "" : call.site ?? "",
  ])));
  return parts.join("\n\n") + "\n";
}

function head(graph: PrintableGraph): string {
  const { source } = graph;
  if (!source) {
    const written = new Set(graph.calls.flatMap((c) => Object.values(c.writes)));
    const open = Object.keys(graph.fields).filter((f) => !written.has(f));
    return `${graph.name}: reads ${open.join(" ") || "nothing"}`;
  }
  const order = source.shuffle ? "shuffled" : "in order";
  const kept = source.heldOut > 0 ? `, ${short(source.heldOut * 100)} % held out` : "";
  return `${graph.name}: ${source.batch} ${
    UNITS[source.kind]
  } per step from ${source.path}, ${order}${kept} → ${Object.keys(source.fields).join(" ")}`;
}

const names = (fields: readonly string[]): string => fields.join(" ");
const states = (call: Call): string[] =>
  call.kind === "compute" ? Object.keys(call.states).map((s) => `state ${s}`) : [];
const readsOf = (call: Call): string[] => [
  ...Object.values(call.reads),
  ...(call.kind === "compute"
    ? call.expr.ops.flatMap((op) => op.op === "input" && op.from === "state" ? [`state ${op.field}`] : [])
    : []),
];
const writesOf = (call: Call): string[] => [...Object.values(call.writes), ...states(call)];

/** What a call that writes no field changes. */
function changed(call: Call): string {
  if (call.kind === "train") return `${call.model}'s parameters`;
  return call.kind === "select" ? "fewer samples" : call.kind === "refill" ? "other prompts" : "nothing";
}

const count = (n: number, one: string): string => `${n} ${one}${n === 1 ? "" : "s"}`;

function details(call: Call): string {
  switch (call.kind) {
    case "generate": {
      const { maxNewTokens, samples, temperature, topK, topP } = call.sampling;
      const cuts = (topK > 0 ? `, top-k ${topK}` : "") + (topP < 1 ? `, top-p ${topP}` : "");
      const tools = call.tools?.length
        ? `, ${call.tools.join(", ")} in up to ${count(call.maxTurns ?? 1, "turn")}`
        : "";
      return `up to ${maxNewTokens} tokens, ${
        count(samples, "sample")
      }, temperature ${temperature}${cuts}${tools}`;
    }
    case "train": {
      const size = `loss of ${count(call.loss.ops.length, "operation")}`;
      const stop = call.stopWhen === undefined ? "" : `, stops when ${call.stopWhen}`;
      return `${size}, ${count(call.minibatches, "mini-batch").replace("batchs", "batches")}, ${
        count(call.epochs, "epoch")
      }${stop}`;
    }
    case "compute":
      return count(call.expr.ops.length, "operation");
    case "score":
      return "TypeScript";
    case "select":
      return call.keep === "bestAndWorst" ? "keeps the best and the worst" : `keeps the best ${call.keep}`;
    case "refill":
      return `up to ${count(call.maxRounds, "round")} of all calls above`;
    case "infer":
      return "";
  }
}

const SHAPES: Readonly<Record<Call["kind"], readonly [string, string]>> = {
  generate: ["[", "]"],
  infer: ["[", "]"],
  train: ["[[", "]]"],
  compute: ["([", "])"],
  score: ["{{", "}}"],
  select: ["{{", "}}"],
  refill: ["{{", "}}"],
};
const label = (text: string): string => `"${text.replaceAll('"', "#quot;")}"`;

/** A graph as a Mermaid flowchart: calls are nodes, fields are edges. */
export function mermaid(graph: PrintableGraph): string {
  const lines = ["flowchart TD"], writers = new Map<string, string>();
  lines.push(`  data[(${label(graph.source?.path ?? "data")})]`);
  graph.calls.forEach((call, i) => {
    const [open, close] = SHAPES[call.kind];
    lines.push(`  c${i}${open}${label(call.id)}${close}`);
    for (const field of Object.values(call.writes)) writers.set(field, `c${i}`);
  });
  graph.calls.forEach((call, i) => {
    const edges = new Map<string, string[]>();
    for (const field of Object.values(call.reads)) {
      const from = writers.get(field) ?? "data";
      edges.set(from, [...edges.get(from) ?? [], field]);
    }
    for (const [from, fields] of edges) lines.push(`  ${from} -- ${label(fields.join(", "))} --> c${i}`);
  });
  return lines.join("\n") + "\n";
}
