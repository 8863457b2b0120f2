/** `baton eval`: the held-out metrics of a script's models. */
import { runner } from "./api.ts";
import { command } from "./command.ts";
import { RUN_OPTIONS, runOptions } from "./options.ts";
import { loadWorkflow } from "./script.ts";

export const evaluate = command({
  name: "eval",
  summary: "measure a script's models on its held-out data",
  usage: "SCRIPT [options] [-- script flags]",
  positional: 1,
  about: [
    "Runs the `evaluate` flow of the script's workflow once, on the data that training never sees, and prints the mean of",
    "every metric with its standard error. Nothing is trained and nothing is written.",
  ].join("\n"),
  options: {
    ...RUN_OPTIONS,
    resume: {
      kind: "flag",
      help: "the models of the newest checkpoint of the output folder, not the script's",
    },
    json: { kind: "flag", help: "one line of JSON per metric" },
  },
  examples: [
    ["baton eval examples/ppo.ts", "the models that the script starts from"],
    ["baton eval examples/ppo.ts --out runs/try --resume", "the models that a run has made so far"],
  ],
  run: async ({ positional, rest, values }, io) => {
    const workflow = await loadWorkflow(positional[0]!, rest);
    const metrics = Object.entries(await (await runner()).evaluate(workflow, runOptions(values)));
    const width = Math.max(...metrics.map(([name]) => name.length));
    for (const [metric, { mean, standardError }] of metrics) {
      if (values.json) io.out(JSON.stringify({ metric, mean, standardError }));
      else io.out(`${metric.padEnd(width)}  ${mean.toPrecision(5)} ± ${standardError.toPrecision(2)}`);
    }
    return 0;
  },
});
