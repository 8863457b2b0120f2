/** Flows: descriptions of work that compose. Nothing runs here, and a flow is not a promise. */
import type { Schema } from "../ir/field.ts";
import { type PrintableGraph, printGraph } from "../ir/print.ts";
import { assemble, describe, type Draft, numberCalls } from "./draft.ts";
import {
  type AsChecked,
  checkName,
  type FieldError,
  type FromChecked,
  type Kept,
  type Mismatch,
  type Moved,
  type Names,
  type OneField,
  type Rebound,
  renameFields,
  type Simplify,
  type Single,
} from "./fields.ts";

// deno-lint-ignore no-explicit-any -- a bound that every flow meets, whatever it reads and writes
export type AnyFlow = Flow<any, any>;
type ReadsOf<N> = N extends readonly [Flow<infer I, infer _>, ...infer Rest]
  ? I & Omit<ReadsOf<Rest>, keyof I>
  : unknown;
type WritesOf<N> = N extends readonly [Flow<infer _, infer O>, ...infer Rest] ? O & WritesOf<Rest> : unknown;

/** A flow that changes which samples the step goes on with: what stands beside it would not know which it sees. */
export interface Alone {
  readonly alone: true;
}

/** What is written when each of `N` is added: by the chain so far and by its earlier siblings. */
type Before<Have, N> = N extends readonly [infer F, ...infer Rest]
  ? readonly [Have, ...Before<Have & (F extends Flow<infer _, infer O> ? O : unknown), Rest>]
  : readonly [];
/**
 * Fields that would be written twice. A single call always writes anew. A composed flow may hold calls that the chain
 * already holds, whose fields then have the same types; that they are the same calls is checked when `then` runs.
 */
// deno-lint-ignore no-explicit-any -- only the kind of flow matters
type Clash<Have, F, Out> = F extends CallFlow<any, any> ? keyof Have & keyof Out : Mismatch<Have, Out>;
type Checked<In, Out, N, Have = Before<Out, N>> = {
  [I in keyof N]: N[I] extends Alone ? N extends readonly [unknown] ? CheckedOne<In, Out, N, Have, I>
    : FieldError<"select() and refill() change the whole step, give them a then() of their own", never>
    : CheckedOne<In, Out, N, Have, I>;
};
type CheckedOne<In, Out, N, Have, I extends keyof N> = N[I] extends Flow<infer FIn, infer FOut>
  ? [Clash<I extends keyof Have ? Have[I] : Out, N[I], FOut>] extends [never]
    ? [Mismatch<Out, FIn>] extends [never] ? [Mismatch<Omit<In, keyof Out>, FIn>] extends [never] ? N[I]
      : FieldError<"this field is read as two different types", Mismatch<Omit<In, keyof Out>, FIn>>
    : FieldError<"this field holds another kind of value than is read here", Mismatch<Out, FIn>>
  : FieldError<
    "this field is already written, rename it with .as()",
    Clash<I extends keyof Have ? Have[I] : Out, N[I], FOut>
  >
  : FieldError<"then() takes flows, to run a workflow say `await run(workflow)`", never>;

/**
 * Work that reads the fields `In` and adds the fields `Out`. Immutable. `In` holds what earlier calls or the data set
 * must provide.
 */
export class Flow<out In extends Schema, out Out extends Schema> {
  constructor(readonly reads: In, readonly writes: Out, readonly drafts: readonly Draft[]) {}

  /**
   * Runs `next` on everything known so far; several flows run side by side, in any order. The same flow object in two
   * branches is one call.
   *
   * @throws TypeError when two calls write one field or read it as different types, and when the flow is awaited
   */
  then<const N extends readonly AnyFlow[]>(
    ...next: N & Checked<In, Out, N>
  ): Flow<Simplify<In & Omit<ReadsOf<N>, keyof Out | keyof In>>, Simplify<Out & WritesOf<N>>> {
    if (next.length === 0) throw new TypeError("Cannot continue a flow: then() got nothing, give it a flow");
    if (next.some((n) => typeof n === "function")) {
      throw new TypeError(
        "Cannot await a flow: it describes work and has no result, close it with workflow() and use `await run(workflow)`",
      );
    }
    if (!next.every((n) => n instanceof Flow)) {
      throw new TypeError(
        "Cannot continue a flow: then() got a value that is no flow, give it calls of models, compute() or score()",
      );
    }
    const added = next.flatMap((f) => (f as AnyFlow).drafts).filter((d) => !this.drafts.includes(d));
    const narrows = added.find((d) => d.call.kind === "select" || d.call.kind === "refill");
    if (narrows && next.length > 1) {
      throw new TypeError(
        `Cannot continue a flow: ${describe(narrows)} changes the whole step, give it a then() of its own`,
      );
    }
    return join(this, next as readonly AnyFlow[]) as never;
  }

  #open() {
    const { graph } = assemble("flow", this.reads, this.drafts, numberCalls(this.drafts));
    return { ...graph, source: null };
  }
  /** Text of the flow's calls, as `console.log` shows it. */
  toString(): string {
    return printGraph(this.#open());
  }
  [Symbol.for("Deno.customInspect")](): string {
    return this.toString().trimEnd();
  }
  /** What a notebook shows for a flow: its graph. */
  [Symbol.for("Jupyter.display")](): Promise<Record<string, string>> {
    return notebookView(this.#open());
  }
}

/** Text for terminals, a drawing for notebooks. What draws is loaded by whom something is drawn for: a run has no use for it. */
export async function notebookView(graph: PrintableGraph): Promise<Record<string, string>> {
  const { graphSvg } = await import("./picture.ts");
  return { "text/plain": printGraph(graph), "image/svg+xml": graphSvg(graph) };
}

/**
 * A flow of one call, whose fields can be renamed. Every method gives a new call. (The variance is said because the checker
 * cannot work it out from methods that return renamed flows.)
 */
export class CallFlow<in out In extends Schema, in out Out extends Schema> extends Flow<In, Out> {
  readonly #draft: Draft;
  constructor(draft: Draft) {
    super(draft.reads as In, draft.writes as Out, [draft]);
    this.#draft = draft;
  }

  /**
   * Renames what the call writes: a name for a call with one field, a map for one with several. Fields that the map leaves
   * out are not written.
   *
   * @throws TypeError when the names do not fit the call's fields
   */
  as<const K extends string>(name: K & OneField<Out>): CallFlow<In, Single<Out, K>>;
  as<const N extends Names<Out>>(names: N & AsChecked<Out, N>): CallFlow<In, Kept<Out, N>>;
  as(names: string | Readonly<Record<string, string>>): object {
    const fields = Object.keys(this.writes);
    if (typeof names === "string" && fields.length !== 1) {
      throw new TypeError(
        `Cannot rename ${describe(this.#draft)} to "${names}": it writes ${
          fields.join(", ") || "no field"
        }, ` +
          `give a map of those to keep, { old: "new" }`,
      );
    }
    const map = typeof names === "string"
      ? { [fields[0]!]: names }
      : names as Readonly<Record<string, string>>;
    this.#checkNames("write", Object.keys(this.writes), map);
    const kept = Object.fromEntries(Object.entries(this.writes).filter(([field]) => field in map));
    for (const [field, { of }] of Object.entries(kept)) {
      if (of !== undefined && of in this.writes && !(of in map)) {
        throw new TypeError(
          `Cannot rename ${describe(this.#draft)}: "${field}" belongs to "${of}", keep that in the map too`,
        );
      }
    }
    const writes = Object.fromEntries(
      Object.entries(this.#draft.call.writes).flatMap(([port, field]) =>
        field in map ? [[port, map[field]!]] : []
      ),
    );
    return new CallFlow({
      ...this.#draft,
      writes: renameFields(kept, map),
      call: { ...this.#draft.call, writes },
    });
  }

  /**
   * Reads other fields: `{ "field it reads": "field to read instead" }`. Reading another token field (`tokens`) moves the
   * call's per-token values with it.
   *
   * @throws TypeError when the call reads no such field
   */
  from<const N extends Names<In>>(names: N & FromChecked<In, N>): CallFlow<Rebound<In, N>, Moved<Out, N>> {
    const map = names as Readonly<Record<string, string>>;
    this.#checkNames("read", Object.keys(this.reads), map);
    return new CallFlow(rebind(this.#draft, map)) as never;
  }

  /** Gives the call an id of its own, for plans, logs and randomness; must be unique in the workflow. */
  named(id: string): CallFlow<In, Out> {
    if (!/^[A-Za-z_][\w.]*$/.test(id)) {
      throw new TypeError(
        `Cannot name a call ${JSON.stringify(id)}: use letters, digits, _ and ., starting with a letter`,
      );
    }
    return new CallFlow({ ...this.#draft, name: id, named: true });
  }

  #checkNames(
    verb: "read" | "write",
    fields: readonly string[],
    map: Readonly<Record<string, string>>,
  ): void {
    const unknown = Object.keys(map).filter((old) => !fields.includes(old));
    if (unknown.length) {
      throw new TypeError(
        `Cannot rename ${describe(this.#draft)}: it does not ${verb} ${unknown.join(", ")} but ${
          fields.join(", ") || "nothing"
        }`,
      );
    }
    for (const name of Object.values(map)) checkName("field", name);
    const kept = verb === "read" ? fields.map((f) => map[f] ?? f) : Object.values(map);
    const twice = kept.find((name, i) => kept.indexOf(name) < i);
    if (twice !== undefined) {
      throw new TypeError(
        `Cannot rename ${describe(this.#draft)}: two of its fields would be called "${twice}"`,
      );
    }
  }
}

/** The draft with other fields under the same ports; traced inputs follow, since an expression names fields. */
function rebind(draft: Draft, map: Readonly<Record<string, string>>): Draft {
  const field = (name: string): string => map[name] ?? name;
  const of = Object.fromEntries(Object.entries(map).filter(([old]) => draft.reads[old]?.dtype === "tokens"));
  const reads = Object.fromEntries(
    Object.entries(draft.call.reads).map(([port, name]) => [port, field(name)]),
  );
  const expr = <E extends { readonly ops: readonly object[] }>(e: E): E => ({
    ...e,
    ops: e.ops.map((op) =>
      "field" in op && "from" in op && op.from === "batch" ? { ...op, field: field(op.field as string) } : op
    ),
  });
  const call = draft.call.kind === "compute"
    ? { ...draft.call, reads, expr: expr(draft.call.expr) }
    : draft.call.kind === "train"
    ? { ...draft.call, reads, loss: expr(draft.call.loss) }
    : { ...draft.call, reads };
  const writes = Object.fromEntries(
    Object.entries(draft.writes).map((
      [name, type],
    ) => [name, type.of !== undefined && type.of in of ? { ...type, of: of[type.of]! } : type]),
  );
  return { ...draft, call, reads: renameFields(draft.reads, map), writes };
}

/** `first`, then `next` side by side: what the whole reads and writes, and its calls in order, each once. */
function join(first: AnyFlow, next: readonly AnyFlow[]): AnyFlow {
  const drafts = [...new Set([first, ...next].flatMap((f) => f.drafts))];
  const writers = new Map<string, Draft>();
  for (const draft of drafts) {
    for (const field of Object.keys(draft.writes)) {
      const other = writers.get(field);
      if (other) {
        throw new TypeError(
          `Cannot write field "${field}" twice: ${describe(other)} and ${
            describe(draft)
          } both do, rename one with .as()`,
        );
      }
      writers.set(field, draft);
    }
  }
  const reads: Schema = { ...first.reads }, written: Schema = first.writes;
  const all = next.flatMap((f) => Object.entries(f.reads as Schema));
  for (const [field, type] of all) {
    const known = written[field] ?? reads[field];
    if (known && (known.per !== type.per || known.dtype !== type.dtype || known.of !== type.of)) {
      const show = (t: typeof type) => `${t.dtype} per ${t.per}` + (t.of === undefined ? "" : ` of ${t.of}`);
      throw new TypeError(
        `Cannot read field "${field}" as ${show(type)}: it is ${
          show(known)
        }, read another field with .from()`,
      );
    }
    if (!(field in written)) (reads as Record<string, typeof type>)[field] = type;
  }
  return new Flow(reads, Object.assign({}, ...[first, ...next].map((f) => f.writes)), drafts);
}
