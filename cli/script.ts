/** Loads a user's script, as `baton run` and `baton graph` take it. */
import { pathToFileURL } from "node:url";
import { isWorkflow, type Workflow } from "../dsl/workflow.ts";

/** A script and what it exports by default. */
export interface Script {
  readonly workflow: Workflow;
  /** Address of the module: reward functions are imported from it again in a worker. */
  readonly url: string;
}

/**
 * Imports a script. It sees `args` as its own `Deno.args`, as if Deno had run it.
 *
 * Throws `Cannot load …` when there is no such file or it exports no workflow.
 */
export async function loadScript(path: string, args: readonly string[]): Promise<Script> {
  const url = /^[a-z]+:/.test(path) ? path : pathToFileURL(path).href;
  if (url.startsWith("file:")) {
    const found = await Deno.stat(new URL(url)).catch(() => null);
    if (!found?.isFile) {
      throw new Error(`Cannot load ${path}: there is no such file, give the path of a script`);
    }
  }
  Object.defineProperty(Deno, "args", { value: Object.freeze([...args]), configurable: true });
  const script: { readonly default?: unknown } = await import(url);
  if (!isWorkflow(script.default)) {
    const found = script.default === undefined
      ? "it has no default export"
      : "its default export is something else";
    throw new TypeError(`Cannot load ${path}: ${found}, end it with \`export default workflow({ … })\``);
  }
  return { workflow: script.default, url };
}
