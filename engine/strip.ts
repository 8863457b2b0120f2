/**
 * The template engine's `strip`, `lstrip` and `rstrip` take off white space whatever they are given; Python's take off the
 * characters that they are given, and Qwen's templates ask for line ends alone.
 */
import type { parse } from "npm:@huggingface/jinja@0.5.11";

/** Turns `text.lstrip(characters)` into a call of {@link STRIPS}, everywhere in a parsed template. */
export function withStrips(program: ReturnType<typeof parse>): ReturnType<typeof parse> {
  visit(program);
  return program;
}

interface Call {
  readonly type: "CallExpression";
  callee: { readonly type: string; readonly object?: unknown; readonly property?: Name };
  args: unknown[];
}
interface Name {
  readonly type: string;
  value: string;
}

function visit(node: unknown): void {
  if (typeof node !== "object" || node === null) return;
  const parts = node instanceof Map ? [...node.keys(), ...node.values()] : Object.values(node);
  for (const part of parts) visit(part);
  const call = node as Call, name = call.type === "CallExpression" ? call.callee.property : undefined;
  if (name?.type !== "Identifier" || call.args.length !== 1 || !(`python_${name.value}` in STRIPS)) return;
  call.args = [call.callee.object, ...call.args];
  name.value = `python_${name.value}`;
  call.callee = name;
}

function strip(text: string, characters: string, start: boolean, end: boolean): string {
  const taken = new Set(characters), letters = [...text];
  let from = 0, to = letters.length;
  while (start && from < to && taken.has(letters[from]!)) from++;
  while (end && to > from && taken.has(letters[to - 1]!)) to--;
  return letters.slice(from, to).join("");
}

/** Functions that a template rewritten by {@link withStrips} calls. */
export const STRIPS = {
  python_strip: (text: string, characters: string) => strip(text, characters, true, true),
  python_lstrip: (text: string, characters: string) => strip(text, characters, true, false),
  python_rstrip: (text: string, characters: string) => strip(text, characters, false, true),
};
