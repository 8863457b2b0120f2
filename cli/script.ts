/** Loads a user's script, as `baton run` and `baton graph` take it. */
import { pathToFileURL } from "node:url";
import { isWorkflow, type Workflow } from "../dsl/workflow.ts";

/** A script and the workflow that it exports. */
export interface Script {
  readonly workflow: Workflow;
  /** Address of the module: reward functions are imported from it again in a worker. */
  readonly url: string;
}

/**
 * Imports a script. It sees `args` as its own `Deno.args`, as if Deno had run it.
 *
 * Throws `Cannot load …` when there is no such file, or it exports no workflow, or several and none by default.
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
  const exported: Readonly<Record<string, unknown>> = await import(url);
  return { workflow: theWorkflow(path, exported), url };
}

/** The default export, or the only workflow that a module exports. */
function theWorkflow(path: string, exported: Readonly<Record<string, unknown>>): Workflow {
  const { default: preferred } = exported;
  if (isWorkflow(preferred)) return preferred;
  const [first, ...more] = new Set(Object.values(exported).filter(isWorkflow));
  if (first === undefined) {
    throw new TypeError(
      `Cannot load ${path}: it exports no workflow, begin one with \`export default workflow({\``,
    );
  }
  if (more.length) {
    throw new TypeError(
      `Cannot load ${path}: it exports ${more.length + 1} workflows, export one of them as default`,
    );
  }
  return first;
}
