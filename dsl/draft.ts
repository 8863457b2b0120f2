/** A call before it belongs to a graph, and how drafts become a graph. */
import type { Schema } from "../ir/field.ts";
import type { Call, CallGraph, ModelSpec } from "../ir/graph.ts";
import type { Tool } from "./tools.ts";

/** One sample as a score function sees it: the fields that it declared to read. */
export type ScoreSample = Readonly<Record<string, string | number>>;
export type ScoreFunction = (sample: ScoreSample) => number | Promise<number>;

type WithoutId<T> = T extends unknown ? Omit<T, "id"> : never;

/** Drafts are compared by identity: the same object in two branches is one call. */
export interface Draft {
  /** "actor.generate"; the graph adds "#2" for the second such call. */
  readonly name: string;
  /** True when the user chose the name, which then must be unique. */
  readonly named: boolean;
  readonly call: WithoutId<Call>;
  /** Types by field. */
  readonly reads: Schema;
  readonly writes: Schema;
  readonly spec?: ModelSpec;
  /** Initial values of the states that it uses. */
  readonly states?: Readonly<Record<string, number>>;
  readonly score?: ScoreFunction;
  readonly tools?: readonly Tool[];
}

export const describe = (draft: Draft): string =>
  draft.name + (draft.call.site ? ` (${draft.call.site})` : "");

/** Unique ids: "ref.infer", "ref.infer#2", … in the order of the drafts. */
export function numberCalls(drafts: readonly Draft[]): Map<Draft, string> {
  const ids = new Map<Draft, string>(), used = new Map<string, Draft>();
  for (const draft of [...drafts.filter((d) => d.named), ...drafts.filter((d) => !d.named)]) {
    let id = draft.name;
    for (let n = 2; used.has(id); n++) {
      if (draft.named) {
        throw new TypeError(
          `Cannot name two calls "${id}": ${describe(used.get(id)!)} and ${
            describe(draft)
          }, choose another .named()`,
        );
      }
      id = `${draft.name}#${n}`;
    }
    used.set(id, draft);
    ids.set(draft, id);
  }
  return ids;
}

export interface Assembled {
  /** Everything of a graph but its data. */
  readonly graph: Omit<CallGraph, "source">;
  /** Score functions by call id. */
  readonly scores: Readonly<Record<string, ScoreFunction>>;
  /** Tools of generate calls by call id. */
  readonly tools: Readonly<Record<string, readonly Tool[]>>;
}

/** Puts drafts together; throws where two of them mean different things by one name. */
export function assemble(
  name: string,
  given: Schema,
  drafts: readonly Draft[],
  ids: ReadonlyMap<Draft, string>,
): Assembled {
  const models: Record<string, ModelSpec> = {},
    states: Record<string, number> = {},
    scores: Record<string, ScoreFunction> = {},
    tools: Record<string, readonly Tool[]> = {};
  for (const draft of drafts) {
    if ("model" in draft.call && draft.spec) {
      const model = draft.call.model, known = models[model];
      if (known && known !== draft.spec) {
        throw new TypeError(
          `Cannot build "${name}": two models are called "${model}" (see ${
            describe(draft)
          }), declare each once`,
        );
      }
      models[model] = draft.spec;
    }
    for (const [state, init] of Object.entries(draft.states ?? {})) {
      if (states[state] !== undefined && states[state] !== init) {
        throw new TypeError(
          `Cannot build "${name}": state "${state}" starts at ${states[state]} and at ${init} (see ${
            describe(draft)
          }), declare it once`,
        );
      }
      states[state] = init;
    }
    if (draft.score) scores[ids.get(draft)!] = draft.score;
    if (draft.tools?.length) tools[ids.get(draft)!] = draft.tools;
  }
  const fields = Object.assign({}, given, ...drafts.map((d) => d.writes)) as Schema;
  const calls = drafts.map((d) => ({ id: ids.get(d)!, ...d.call }) as Call);
  return { graph: { version: 1, name, models, fields, calls, states }, scores, tools };
}
