/** A flow closed over its data: what `run` runs. */
import type { Schema } from "../ir/field.ts";
import type { CallGraph } from "../ir/graph.ts";
import { checkGraph } from "../ir/check.ts";
import { printGraph } from "../ir/print.ts";
import { assemble, describe, type Draft, numberCalls, type ScoreFunction } from "./draft.ts";
import type { FieldError, Mismatch, None } from "./fields.ts";
import { type AnyFlow, type Flow, notebookView } from "./flow.ts";
import { positive, refuse } from "./options.ts";
import { at, callSite } from "./site.ts";
import type { Source } from "./sources.ts";
import type { Tool } from "./tools.ts";

/** Without a data set nothing more is to be said than that there is none. */
type Closed<F, In, Out> = string extends keyof F ? unknown
  : [Exclude<keyof In, keyof F>] extends [never]
    ? [Mismatch<F, In>] extends [never] ? [keyof F & keyof Out] extends [never] ? unknown
      : FieldError<
        "a call writes a field that the data set already has, rename it with .as()",
        keyof F & keyof Out
      >
    : FieldError<"the data set holds another kind of value than is read", Mismatch<F, In>>
  : FieldError<"no call or data set provides", Exclude<keyof In, keyof F>>;

export interface EvaluateOptions<F extends Schema, In extends Schema, Out extends Schema> {
  /** Steps from one evaluation to the next; there is one before the first step and one after the last, too. */
  readonly every: number;
  /** Rows to evaluate on. */
  readonly prompts: number;
  /** What to do with them; trains nothing. */
  readonly flow: Flow<In, Out> & Closed<F, In, Out>;
  /** Another data set with the same fields; without it, the held-out rows of the workflow's own. */
  readonly data?: Source<F>;
}

/** The graph of an evaluation and when to run it. Calls that it shares with the workflow have the same ids. */
export interface Evaluation {
  readonly every: number;
  readonly prompts: number;
  readonly graph: CallGraph;
}

const BRAND = Symbol.for("baton.workflow");

/** A checked call graph with the functions that it names. Made by {@link workflow}. */
export class Workflow {
  readonly [BRAND] = true;
  constructor(
    readonly name: string,
    readonly graph: CallGraph,
    readonly evaluation: Evaluation | null,
    /** Functions of the score calls of both graphs, by call id. */
    readonly scores: Readonly<Record<string, ScoreFunction>>,
    /** Tools of the generate calls of both graphs, by call id. */
    readonly tools: Readonly<Record<string, readonly Tool[]>> = {},
  ) {}

  toString(): string {
    return printGraph(this.graph);
  }
  [Symbol.for("Deno.customInspect")](): string {
    return this.toString().trimEnd();
  }
  /** What a notebook shows for a workflow: its graph. */
  [Symbol.for("Jupyter.display")](): Promise<Record<string, string>> {
    return notebookView(this.graph);
  }
}

/** True for workflows of this or another copy of the library. */
export const isWorkflow = (value: unknown): value is Workflow =>
  typeof value === "object" && value !== null && (value as Partial<Workflow>)[BRAND] === true;

function missing(flow: AnyFlow, source: Source<Schema>): string[] {
  return Object.entries(flow.reads as Schema).flatMap(([field, type]) => {
    const given = source.fields[field];
    if (!given) {
      const later = flow.drafts.find((d) => field in d.writes);
      return later
        ? [
          `"${field}" is read before or beside ${
            describe(later)
          }, which writes it, put the reader in a later then()`,
        ]
        : [`no call or data set provides "${field}"`];
    }
    return given.per === type.per && given.dtype === type.dtype ? [] : [
      `"${field}" of the data set is ${given.dtype} per ${given.per} and is read as ${type.dtype} per ${type.per}`,
    ];
  });
}

/**
 * Closes a flow over its data and checks the whole: this is what `run` takes and what a script exports.
 *
 * @param w `name` for plans, logs and the run's folder; `data`; `flow`; `evaluate` on held-out data
 * @throws TypeError or RangeError that lists every violation
 * @example
 * ```ts
 * import { adamw, conversations, models, policyModel, sft, workflow } from "@baton/baton";
 *
 * const { actor } = models({ actor: policyModel("models/base", adamw({ lr: 1e-5 })) });
 * export default workflow({
 *   name: "sft",
 *   data: conversations("data/chats.jsonl", { batch: 32 }),
 *   flow: actor.train(sft()),
 * });
 * ```
 */
export function workflow<
  F extends Schema,
  In extends Schema,
  Out extends Schema,
  EIn extends Schema = None,
  EOut extends Schema = None,
>(w: {
  readonly name: string;
  readonly data: Source<F>;
  readonly flow: Flow<In, Out> & Closed<F, In, Out>;
  readonly evaluate?: EvaluateOptions<F, EIn, EOut>;
}): Workflow {
  const site = callSite(), flow: AnyFlow = w.flow, { evaluate } = w;
  if (!/^[A-Za-z0-9][\w.-]*$/.test(w.name)) {
    throw new TypeError(
      `Cannot name a workflow ${
        JSON.stringify(w.name)
      }: use letters, digits, _, . and - (runs/NAME is its folder)`,
    );
  }
  const cannot = `build workflow "${w.name}"${at(site)}`;
  const problems = missing(flow, w.data);
  if (evaluate) {
    const { drafts } = evaluate.flow as AnyFlow;
    problems.push(...missing(evaluate.flow, evaluate.data ?? w.data).map((p) => `evaluate: ${p}`));
    for (const d of drafts) {
      if (d.call.kind === "train") problems.push(`evaluate: ${describe(d)} trains, an evaluation must not`);
      if (d.call.kind === "refill") {
        problems.push(`evaluate: ${describe(d)} changes prompts, an evaluation must not`);
      }
      if (d.call.kind === "compute" && Object.keys(d.call.states).length) {
        problems.push(`evaluate: ${describe(d)} writes a state, an evaluation must not`);
      }
    }
    if (evaluate.data && evaluate.data.path !== w.data.path && w.data.heldOut > 0) {
      problems.push(
        `evaluate: it has data of its own, so nobody would use the rows that heldOut ${w.data.heldOut} keeps from training, ` +
          `leave heldOut out`,
      );
    }
    if (!evaluate.data && w.data.heldOut === 0) {
      problems.push("evaluate: nothing is held out, give the data set heldOut or evaluate its own data");
    }
    refuse(`evaluate in "${w.name}"${at(site)}`, [
      positive("every", evaluate.every, "whole"),
      positive("prompts", evaluate.prompts, "whole"),
    ]);
  }
  if (problems.length) throw new TypeError(`Cannot ${cannot}: ${problems.join("; ")}`);
  const evaluated: AnyFlow | undefined = evaluate?.flow;
  const ids = numberCalls([...new Set([...flow.drafts, ...evaluated?.drafts ?? []])]);
  const main = close(w.name, w.data, flow, ids);
  if (!evaluate || !evaluated) return new Workflow(w.name, main.graph, null, main.scores, main.tools);
  const side = close(`${w.name}-evaluation`, evaluate.data ?? w.data, evaluated, ids);
  const { every, prompts } = evaluate;
  return new Workflow(w.name, main.graph, { every, prompts, graph: side.graph }, {
    ...main.scores,
    ...side.scores,
  }, { ...main.tools, ...side.tools });
}

function close(name: string, data: Source<Schema>, flow: AnyFlow, ids: ReadonlyMap<Draft, string>) {
  const { graph, scores, tools } = assemble(name, data.fields, flow.drafts, ids),
    closed: CallGraph = { ...graph, source: data };
  checkGraph(closed);
  return { graph: closed, scores, tools };
}
