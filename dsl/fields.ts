/** Types about schemas: how names and token fields are checked along a chain. The messages are types, shown by the editor. */
import type { Schema } from "../ir/field.ts";

/** The message is the type: the editor shows it under the offending argument. */
export interface FieldError<Message extends string, Fields> {
  readonly error: Message;
  readonly fields: Fields;
}

/** No fields. */
export type None = Readonly<Record<never, never>>;
// deno-lint-ignore ban-types -- the usual way to have an intersection shown as one object; Record<never, never> is circular here
export type Simplify<T> = { readonly [K in keyof T]: T[K] } & {};

/** Names that both schemas hold, with different types. */
export type Mismatch<Have, Want> = {
  [K in keyof Have & keyof Want]: Have[K] extends Want[K] ? never : K;
}[keyof Have & keyof Want];

type TokenFields<S> = {
  [K in keyof S]: S[K] extends { readonly per: "token"; readonly of: infer Of extends string } ? Of : never;
}[keyof S];
/** The token field that the per-token values of a schema belong to. */
export type TokenFieldOf<S> = [TokenFields<S>] extends [never] ? "tokens" : TokenFields<S>;
type IsUnion<T, U = T> = T extends unknown ? [U] extends [T] ? false : true : false;
/** Values of two token fields have different lengths: one traced function reads one of them. */
export type OneTokenField<S> = true extends IsUnion<TokenFields<S>>
  ? FieldError<"values of two token fields do not mix, fold one with its own compute first", TokenFields<S>>
  : unknown;
/** Traced functions read numbers; text and token ids are for `score` and for models. */
export type Numbers<S> =
  { [K in keyof S]: S[K] extends { readonly dtype: "f32" } ? never : K }[keyof S] extends never ? unknown
    : FieldError<
      "a traced function reads numbers only",
      { [K in keyof S]: S[K] extends { readonly dtype: "f32" } ? never : K }[keyof S]
    >;

type AnyPerToken<S> = { [K in keyof S]: S[K] extends { readonly per: "token" } ? K : never }[keyof S];
/** The token field itself, which whatever works per token reads. */
export type TokensFor<S, Of extends string> = [AnyPerToken<S>] extends [never] ? unknown
  : { readonly [K in Of]: { readonly per: "sequence"; readonly dtype: "tokens" } };

/** New names by old names. `as` drops what the map leaves out, `from` keeps it. */
export type Names<S> = { readonly [K in keyof S]?: string };
type Retarget<T, N> = T extends { readonly of: infer Of extends keyof N }
  ? { readonly [K in keyof T]: K extends "of" ? N[Of] : T[K] }
  : T;
type AsSchema<T> = T extends Schema ? T : never;
export type Kept<S, N> = AsSchema<
  Simplify<{ [K in keyof S as K extends keyof N ? N[K] & string : never]: Retarget<S[K], N> }>
>;
export type Rebound<S, N> = AsSchema<
  Simplify<{ [K in keyof S as K extends keyof N ? N[K] & string : K]: Retarget<S[K], N> }>
>;
/** The same names, with per-token values that belong to the renamed token field. */
export type Moved<S, N> = AsSchema<{ readonly [K in keyof S]: Retarget<S[K], N> }>;
/** What a call that writes one field writes under a new name. */
export type Single<S, Name extends string> = AsSchema<{ readonly [K in Name]: S[keyof S] }>;

type Orphans<S, N> = {
  [K in keyof S & keyof N]: S[K] extends { readonly of: infer Of extends keyof S }
    ? Of extends keyof N ? never : K
    : never;
}[keyof S & keyof N];
/** What `.as("name")` refuses. */
export type OneField<S> = [keyof S] extends [never] ? FieldError<"this call writes no field", never>
  : IsUnion<keyof S> extends true ? FieldError<
      'this call writes several fields, give .as() a map of those to keep, { old: "new" }',
      keyof S
    >
  : unknown;
/** What `.as({ … })` refuses. */
export type AsChecked<S, N> = [Exclude<keyof N, keyof S>] extends [never]
  ? [Orphans<S, N>] extends [never] ? unknown
  : FieldError<"per-token values need their token field, keep it in the map too", Orphans<S, N>>
  : FieldError<"this call writes no such field", Exclude<keyof N, keyof S>>;
/** What `.from()` refuses. */
export type FromChecked<S, N> = [Exclude<keyof N, keyof S>] extends [never] ? unknown
  : FieldError<"this call reads no such field", Exclude<keyof N, keyof S>>;

const NAME = /^[A-Za-z_][A-Za-z0-9_]*$/;
/** Names end up in error messages, metrics, diagrams and files: letters, digits and _ only. */
export function checkName(what: string, name: string): void {
  if (typeof name !== "string" || !NAME.test(name)) {
    throw new TypeError(
      `Cannot name a ${what} ${JSON.stringify(name)}: use letters, digits and _, not starting with a digit`,
    );
  }
}

/** The run-time twin of {@link Retarget} for one schema. */
export function renameFields(schema: Schema, names: Readonly<Record<string, string | undefined>>): Schema {
  return Object.fromEntries(
    Object.entries(schema).map(([field, type]) => {
      const of = type.of === undefined ? undefined : names[type.of] ?? type.of;
      return [names[field] ?? field, of === undefined ? type : { ...type, of }];
    }),
  );
}
