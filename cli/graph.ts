/** `baton graph`: what a script does, without running it. */
import { command, UsageError } from "./command.ts";
import { mermaid, printGraph } from "../ir/print.ts";
import { loadScript } from "./script.ts";

export const graph = command({
  name: "graph",
  summary: "show the call graph of a script",
  usage: "SCRIPT [options] [-- script flags]",
  positional: 1,
  about: [
    "Imports the script and prints the calls that its workflow makes each step, in an order that respects their fields:",
    "what every call reads and writes, and on which model. Nothing is loaded, built or run.",
  ].join("\n"),
  options: {
    mermaid: { kind: "flag", help: "a Mermaid flowchart, for a document" },
    json: { kind: "flag", help: "the call graph as one line of JSON" },
  },
  examples: [
    ["baton graph examples/ppo.ts", "a table for the terminal"],
    ["baton graph examples/ppo.ts --mermaid > ppo.mmd", "a diagram"],
    ["baton graph examples/ppo.ts --json | jq '.calls[].id'", "for a program"],
    ["baton graph train.ts -- --lr 1e-4", "with flags for the script itself"],
  ],
  run: async ({ positional, rest, values }, io) => {
    if (values.mermaid && values.json) {
      throw new UsageError(
        "Cannot run baton graph: --mermaid and --json are two forms of the result, choose one",
      );
    }
    const { workflow: { graph } } = await loadScript(positional[0]!, rest);
    io.out(
      values.json ? JSON.stringify(graph) : (values.mermaid ? mermaid(graph) : printGraph(graph)).trimEnd(),
    );
    return 0;
  },
});
