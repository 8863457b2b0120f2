/** The written specification of a call graph. Every violation is listed. */
import { refillViolations, selectViolations } from "./check_batch.ts";
import { GROUPWISE } from "./expr.ts";
import { computeViolations, exprViolations, lossViolations } from "./expr_rules.ts";
import type { FieldType, Schema } from "./field.ts";
import { type Call, type CallGraph, type Head, isHostCall, MOST_KEPT } from "./graph.ts";
import { groupAt, pairsAt } from "./groups.ts";

const GENERATED: readonly string[] = ["tokens", "response", "logprobs", "length", "finished"];
/** What a model makes of tokens: the ports of `infer`, and what a loss sees as `now` (final values apart). */
const MAKES: Readonly<Record<Head, readonly string[]>> = {
  lm: ["logprobs", "entropy"],
  value: ["values", "finalValues"],
  reward: ["rewards"],
};

/** @throws TypeError that lists every violation of the specification */
export function checkGraph(graph: CallGraph): void {
  const found = graphViolations(graph);
  if (found.length) throw new TypeError(`Cannot use graph "${graph.name}": ${found.join("; ")}`);
}

/** Every violation of the specification of a call graph; a graph without any can be planned and run. */
export function graphViolations(graph: CallGraph): string[] {
  const found: string[] = [], ids = new Set<string>(), written = new Set(Object.keys(graph.source.fields));
  const stateWriters = new Map<string, string>();
  found.push(...counts({ batch: graph.source.batch }).map((v) => `its data set ${v}`));
  if (graph.calls.length === 0) found.push("it has no calls");
  for (const [field, type] of Object.entries(graph.source.fields)) {
    if (!same(graph.fields[field], type)) found.push(`data field "${field}" has another type in fields`);
  }
  for (const [field, type] of Object.entries(graph.fields)) {
    if (type.per === "token" ? graph.fields[type.of ?? ""]?.dtype !== "tokens" : type.of !== undefined) {
      found.push(
        `field "${field}" per ${type.per} belongs to ${
          type.of ? `"${type.of}", which is no token field` : "no token field"
        }`,
      );
    }
  }
  for (const call of graph.calls) {
    const wrong = (message: string) => found.push(`${call.id} ${message}`);
    if (ids.has(call.id)) wrong("appears twice");
    ids.add(call.id);
    for (const field of Object.values(call.reads)) {
      if (!written.has(field)) wrong(`reads "${field}" before it is written`);
    }
    for (const field of Object.values(call.writes)) {
      if (written.has(field)) wrong(`writes "${field}", which already exists`);
      if (!graph.fields[field]) wrong(`writes "${field}", which has no type`);
      written.add(field);
    }
    callViolations(call, graph).forEach(wrong);
    for (const state of call.kind === "compute" ? Object.keys(call.states) : []) {
      const other = stateWriters.get(state);
      if (other) wrong(`writes state "${state}", which ${other} writes too`);
      stateWriters.set(state, call.id);
    }
  }
  for (const field of Object.keys(graph.fields)) {
    if (!written.has(field)) found.push(`field "${field}" is written by nothing`);
  }
  for (const [name, { ema, optimizer, head, lora }] of Object.entries(graph.models)) {
    const of = ema && graph.models[ema.of];
    if (lora && !optimizer) found.push(`model "${name}" has an adapter and is not trained`);
    if (
      lora && !(Number.isInteger(lora.rank) && lora.rank > 0 && lora.alpha > 0 && lora.targets.length > 0)
    ) {
      found.push(
        `model "${name}" has an adapter of rank ${lora.rank}, alpha ${lora.alpha}, for ${lora.targets}`,
      );
    }
    if (ema && of?.lora) {
      found.push(`model "${name}" follows "${ema.of}", of which an adapter is trained alone`);
    }
    if (ema && optimizer) found.push(`model "${name}" follows "${ema.of}" and is trained itself`);
    if (ema && !(ema.eta > 0 && ema.eta <= 1)) {
      found.push(`model "${name}" follows "${ema.of}" with eta ${ema.eta}`);
    }
    if (of && (!of.optimizer || of.head !== head)) {
      found.push(
        `model "${name}" follows "${ema.of}", which is ${
          of.optimizer ? `a ${of.head} model` : "not trained"
        }`,
      );
    }
  }
  for (const [state, init] of Object.entries(graph.states)) {
    if (!Number.isFinite(init)) found.push(`state "${state}" starts at ${init}`);
    if (graph.fields[state]) found.push(`"${state}" is a field and a state`);
  }
  return [...found, ...groupViolations(graph)];
}

const counts = (numbers: Readonly<Record<string, number>>): string[] =>
  Object.entries(numbers).flatMap(([name, n]) => Number.isInteger(n) && n > 0 ? [] : [`has ${name} ${n}`]);

const same = (a: FieldType | undefined, b: FieldType): boolean =>
  a !== undefined && a.per === b.per && a.dtype === b.dtype && a.of === b.of;

function callViolations(call: Call, graph: CallGraph): string[] {
  const found: string[] = [];
  if ("model" in call) {
    const model = graph.models[call.model];
    if (!model) return [`runs model "${call.model}", which is not declared`];
    if (call.kind === "generate" && model.head !== "lm") found.push(`generates with a ${model.head} model`);
    if (call.kind === "train" && !model.optimizer) {
      found.push(`trains "${call.model}", which has no optimizer`);
    }
    const ports = call.kind === "generate" ? GENERATED : call.kind === "infer" ? MAKES[model.head] : [];
    const odd = Object.keys(call.writes).filter((port) => !ports.includes(port));
    if (odd.length) {
      found.push(`writes port ${odd.join(", ")}, which a ${model.head} model's ${call.kind} does not have`);
    }
  }
  if (call.kind === "score" && Object.keys(call.writes).length !== 1) {
    found.push("must write exactly one field");
  }
  if ((call.kind === "infer" || call.kind === "train") && call.reads.tokens === undefined) {
    found.push("reads no token field");
  }
  const of = call.reads.tokens;
  if (of !== undefined && !isHostCall(call) && graph.fields[of]?.dtype !== "tokens") {
    found.push(`reads "${of}" as tokens`);
  }
  if (call.kind === "generate") {
    const { samples, maxNewTokens, topK, keepSampledMask } = call.sampling, { maxTurns = 1 } = call;
    found.push(...counts({ samples, maxNewTokens, maxTurns }));
    if (keepSampledMask && !(topK >= 1 && topK <= MOST_KEPT)) {
      found.push(`stores what topK ${topK} kept, it must be from 1 to ${MOST_KEPT}`);
    }
    const { tokens } = call.writes, made = call.writes.logprobs;
    if (made !== undefined && graph.fields[made]?.of !== tokens) {
      found.push(`writes "${made}" without its token field`);
    }
    if (tokens !== undefined && graph.fields[tokens]?.dtype !== "tokens") {
      found.push(`writes "${tokens}" as tokens`);
    }
  }
  if (call.kind === "infer") {
    for (const field of Object.values(call.writes)) {
      const type = graph.fields[field];
      if (type?.per === "token" && type.of !== of) {
        found.push(`writes "${field}" of "${type.of}" and reads "${of}"`);
      }
    }
  }
  if (call.kind === "compute") found.push(...computeCallViolations(call, graph));
  if (call.kind === "train") {
    found.push(...inputViolations(call.loss, call.reads, graph.fields, of), ...exprViolations(call.loss));
    if (!found.length) {
      found.push(...lossViolations(call.loss).map((v) => `has a loss that is not valid: ${v}`));
    }
    const made = MAKES[graph.models[call.model]!.head].filter((name) => name !== "finalValues");
    for (const op of call.loss.ops) {
      if (op.op === "input" && op.from === "model" && !made.includes(op.field)) {
        found.push(`has a loss of "${op.field}", which its model does not make`);
      }
    }
    found.push(...counts({ minibatches: call.minibatches, epochs: call.epochs }));
    if (call.stopWhen !== undefined && call.loss.outputs[call.stopWhen] === undefined) {
      found.push(`stops when "${call.stopWhen}", which is no metric of its loss`);
    }
  }
  return found;
}

function computeCallViolations(call: Extract<Call, { kind: "compute" }>, graph: CallGraph): string[] {
  const { expr, writes, states } = call, of = call.reads.tokens;
  const found = [
    ...exprViolations(expr),
    ...computeViolations(expr),
    ...inputViolations(expr, call.reads, graph.fields, of),
  ];
  if (expr.ops.some((op) => op.per === "token") && of === undefined) {
    found.push("works per token and reads no token field");
  }
  for (const [port, field] of Object.entries(writes)) {
    const op = expr.ops[expr.outputs[port] ?? -1], type = graph.fields[field];
    if (!op) found.push(`writes "${field}", which its expression does not make`);
    else if (
      type && (type.per !== op.per || type.dtype !== "f32" || (type.per === "token" && type.of !== of))
    ) {
      found.push(`writes "${field}" as a number per ${op.per} of "${of}"`);
    }
  }
  for (const [state, output] of Object.entries(states)) {
    if (graph.states[state] === undefined) found.push(`writes state "${state}", which is not declared`);
    if (expr.ops[expr.outputs[output] ?? -1]?.per !== "batch") {
      found.push(`writes state "${state}" from no number per batch`);
    }
  }
  for (const op of expr.ops) {
    if (op.op === "input" && op.from === "state" && graph.states[op.field] === undefined) {
      found.push(`reads state "${op.field}", which is not declared`);
    }
  }
  return found;
}

/** An expression's inputs name fields that the call reads, of the call's token field. */
function inputViolations(
  expr: { ops: readonly unknown[] },
  reads: Call["reads"],
  fields: Schema,
  of: string | undefined,
): string[] {
  const read = new Set(Object.values(reads));
  return (expr as Extract<Call, { kind: "compute" }>["expr"]).ops.flatMap((op) => {
    if (op.op !== "input" || op.from !== "batch") return [];
    const type = fields[op.field];
    if (!read.has(op.field)) return [`uses "${op.field}" without reading it`];
    if (!type) return [];
    if (type.per !== op.per || type.dtype !== "f32") {
      return [`reads "${op.field}" as a number per ${op.per}, and it is ${type.dtype} per ${type.per}`];
    }
    return type.per === "token" && type.of !== of
      ? [`reads "${op.field}" of "${type.of}" among values of "${of}"`]
      : [];
  });
}

/** All sequences of a step come in groups of one size: the samples of a prompt, or the two of a pair. */
function groupViolations(graph: CallGraph): string[] {
  const generates = graph.calls.filter((c) => c.kind === "generate");
  const sizes = new Set(generates.map((c) => c.sampling.samples)), found: string[] = [];
  if (sizes.size > 1) {
    found.push(
      `${generates.map((c) => c.id).join(", ")} make different numbers of samples (${
        [...sizes].join(", ")
      }) of one prompt`,
    );
  }
  for (const call of graph.calls) {
    const samples = groupAt(graph, call);
    if (call.kind === "select") found.push(...selectViolations(call, graph));
    if (call.kind === "refill") found.push(...refillViolations(call, graph));
    const ops = call.kind === "compute" ? call.expr.ops : call.kind === "train" ? call.loss.ops : [];
    const kinds = new Set<string>(ops.map((op) => op.op));
    if (GROUPWISE.some((kind) => kinds.has(kind)) && samples < 2) {
      found.push(`${call.id} folds groups, and every prompt has one sample, generate with samples above 1`);
    }
    if ((kinds.has("chosen") || kinds.has("rejected")) && !pairsAt(graph, call)) {
      found.push(
        `${call.id} splits pairs, and the data are ${graph.source.kind}, use preferences() or make pairs with ` +
          `select({ keep: "bestAndWorst" })`,
      );
    }
  }
  return found;
}
