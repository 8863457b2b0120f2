/**
 * What public data sets call their columns. A row is first brought to Baton's own names by the tables here, which
 * docs/data.md shows to the user, and everything behind knows those alone.
 */
import type { SourceSpec } from "../ir/graph.ts";
import { isObject, type JsonObject } from "./files.ts";

/** Baton's name of a column → what data sets call it. The first one that a row has counts. */
export const COLUMNS: Readonly<Record<string, readonly string[]>> = {
  prompt: ["prompt", "question", "instruction", "problem", "query", "input"],
  completion: ["completion", "response", "output", "solution", "answer"],
  messages: ["messages", "conversations", "conversation"],
  text: ["text", "content"],
  tokens: ["tokens", "input_ids"],
  mask: ["mask", "loss_mask"],
  chosen: ["chosen", "chosen_response", "response_chosen", "response_j"],
  rejected: ["rejected", "rejected_response", "response_rejected", "response_k"],
  system: ["system", "system_prompt"],
  answer: [
    "answer",
    "solution",
    "ground_truth",
    "target",
    "expected_answer",
    "final_answer",
    "reward_model.ground_truth",
  ],
  label: ["label", "desirable", "is_desirable", "kto_tag"],
};

/** What a row of a kind consists of: the first form whose columns a row has all, by Baton's names, else by any. */
const FORMS: Readonly<Record<SourceSpec["kind"], readonly (readonly string[])[]>> = {
  prompts: [["prompt"], ["messages"], ["tokens"]],
  conversations: [["prompt", "completion"], ["messages"], ["text"], ["tokens"]],
  pairs: [["chosen", "rejected"]],
};
/** Where names of others decide, messages go first: they say more than a question and a final answer beside them. */
const byOthers = (forms: (typeof FORMS)["prompts"]) =>
  forms.toSorted((a, b) => Number(b[0] === "messages") - Number(a[0] === "messages"));
/** Columns that a form may have besides. */
const BESIDE: Readonly<Record<SourceSpec["kind"], readonly string[]>> = {
  prompts: ["system"],
  conversations: ["system", "mask"],
  pairs: ["prompt", "messages", "system"],
};

/** Which columns of the file the script itself named: Baton's name, or a declared field's → a column, `a.b` for one inside another. */
export type Renames = Readonly<Record<string, string>>;

const present = (value: unknown): boolean => value !== undefined && value !== null;

/** The value of a column; `a.b` is a column of that name, or b inside a. */
function valueAt(row: JsonObject, column: string): unknown {
  if (present(row[column])) return row[column];
  const dot = column.indexOf("."), outer = dot < 0 ? undefined : row[column.slice(0, dot)];
  return isObject(outer) ? valueAt(outer, column.slice(dot + 1)) : undefined;
}

/** A value by Baton's name of its column. */
export function columnOf(row: JsonObject, name: string, renames: Renames = {}): unknown {
  const own = renames[name];
  if (own !== undefined) return valueAt(row, own);
  for (const column of COLUMNS[name] ?? [name]) {
    const value = valueAt(row, column);
    if (present(value)) return value;
  }
  return undefined;
}

/** The row under Baton's names: the columns of its form and what it may have besides. Empty where it has no form. */
export function byOwnNames(row: JsonObject, kind: SourceSpec["kind"], renames: Renames = {}): JsonObject {
  const exact = (name: string) => valueAt(row, renames[name] ?? name);
  const any = (name: string) => columnOf(row, name, renames);
  const has = (value: (name: string) => unknown) => (form: readonly string[]) =>
    form.every((name) => present(value(name)));
  const form = FORMS[kind].find(has(exact)) ?? byOthers(FORMS[kind]).find(has(any)) ?? [];
  const names = form.length === 0 ? [] : [...form, ...BESIDE[kind]];
  const found = names.map((name) => [name, any(name)] as const).filter(([, value]) => present(value));
  return withInput(row, renames, Object.fromEntries(found));
}

/** Alpaca's rows have an instruction and, often empty, an input that it is about. */
function withInput(row: JsonObject, renames: Renames, own: JsonObject): JsonObject {
  const { instruction, input } = row;
  const about = renames["prompt"] === undefined && own["prompt"] === instruction &&
    typeof instruction === "string" && typeof input === "string" && input !== "";
  return about ? { ...own, prompt: `${instruction}\n\n${input}` } : own;
}

/** Whether a file's column of the first level may be needed: by a form of the kind or by a declared field. */
export function wantedColumns(
  { kind, fields, columns = {} }: Pick<SourceSpec, "kind" | "fields" | "columns">,
): (column: string) => boolean {
  const names = [...FORMS[kind].flat(), ...BESIDE[kind], ...Object.keys(fields)];
  const all = names.flatMap((name) => columns[name] ?? COLUMNS[name] ?? [name]);
  const first = new Set([...all, "input"].flatMap((name) => [name, name.split(".")[0]!]));
  return (column) => first.has(column);
}
