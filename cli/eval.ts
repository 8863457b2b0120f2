/** `baton eval`: the held-out metrics of a script's models. */
import { type EvaluateOptions, runner } from "./api.ts";
import { command } from "./command.ts";
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
    from: { kind: "string", value: "FOLDER", help: "a run's output folder: evaluates its newest checkpoint" },
    config: { kind: "string", value: "FILE.yaml", help: "the machine and the run" },
    seed: { kind: "number", value: "S", help: "what all randomness starts from", integer: true, min: 0 },
    json: { kind: "flag", help: "one line of JSON per metric" },
  },
  examples: [
    ["baton eval examples/ppo.ts", "the models that the script starts from"],
    ["baton eval examples/ppo.ts --from runs/try", "the models that a run has made"],
  ],
  run: async ({ positional, rest, values }, io) => {
    const workflow = await loadWorkflow(positional[0]!, rest);
    const options: EvaluateOptions = {
      ...(values.config === undefined ? {} : { config: values.config }),
      ...(values.seed === undefined ? {} : { seed: values.seed }),
      ...(values.from === undefined ? {} : { from: values.from }),
    };
    const metrics = Object.entries(await (await runner()).evaluate(workflow, options));
    const width = Math.max(...metrics.map(([name]) => name.length));
    for (const [metric, { mean, standardError }] of metrics) {
      if (values.json) io.out(JSON.stringify({ metric, mean, standardError }));
      else io.out(`${metric.padEnd(width)}  ${mean.toPrecision(5)} ± ${standardError.toPrecision(2)}`);
    }
    return 0;
  },
});
