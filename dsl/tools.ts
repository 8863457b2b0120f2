/** Tools: what a model may call between the turns of one sample. */
import { positive, refuse } from "./options.ts";
import { at } from "./site.ts";

/**
 * A tool of `generate`. When a turn has ended with a stop token and `call` matches its text, the host asks `run`, and what
 * it answers is inserted as tokens that are no actions; then the model goes on.
 *
 * @example A calculator that is called as "12*34="
 * ```ts
 * import type { Tool } from "@baton/baton";
 *
 * const calculator: Tool = {
 *   name: "calculator",
 *   call: /(\d+)\*(\d+)=$/,
 *   run: ([, a, b]) => `${Number(a) * Number(b)}\n`,
 * };
 * ```
 */
export interface Tool {
  readonly name: string;
  /** What a turn looks like that calls the tool. Neither global nor sticky. Special tokens are no part of the text. */
  readonly call: RegExp;
  /** The answer, inserted as it is, template markers included; throws or rejects to stop the run. */
  readonly run: (match: readonly string[]) => string | Promise<string>;
}

/** Options of `generate` for several turns. */
export interface ToolOptions {
  /** The first whose `call` matches is asked. */
  readonly tools?: readonly Tool[];
  /** Assistant turns of one sample at most. Default 1 without tools, 4 with; all of them and the answers share `maxNewTokens`. */
  readonly maxTurns?: number;
}

/** The part of a generate call that is about tools. */
export function toolsOf({ tools = [], maxTurns }: ToolOptions, site: string | undefined) {
  const names = tools.map((tool) => tool.name);
  const twice = names.find((name, i) => names.indexOf(name) < i);
  refuse(`generate${at(site)}`, [
    maxTurns !== undefined && positive("maxTurns", maxTurns, "whole"),
    (maxTurns ?? 1) > 1 && !tools.length && `maxTurns is ${maxTurns} and there are no tools, give some`,
    twice !== undefined && `two tools are called "${twice}"`,
    ...tools.flatMap((tool) => [
      !(tool.call instanceof RegExp) && `tool "${tool.name}" has no regular expression call`,
      // These go on from where the last match ended, in whatever sample that was.
      tool.call instanceof RegExp && (tool.call.global || tool.call.sticky) &&
      `tool "${tool.name}" has a ${tool.call.global ? "global" : "sticky"} call, leave out the ${
        tool.call.global ? "g" : "y"
      }`,
      typeof tool.run !== "function" && `tool "${tool.name}" has no function run`,
    ]),
  ]);
  return tools.length ? { tools: names, maxTurns: maxTurns ?? 4 } : {};
}
