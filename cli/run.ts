/** `baton run`: trains what a script describes. */
import { runner, type RunOptions } from "./api.ts";
import { command } from "./command.ts";
import { loadWorkflow } from "./script.ts";

export const run = command({
  name: "run",
  summary: "train what a script describes",
  usage: "SCRIPT [options] [-- script flags]",
  positional: 1,
  about: [
    "Imports the script and runs the workflow that it exports by default, with live progress on stderr. The output folder",
    "gets metrics.jsonl, samples.jsonl, report.html, checkpoints and the trained models. The first Ctrl-C writes a",
    "checkpoint that --resume continues from bit for bit; the second ends at once.",
  ].join("\n"),
  options: {
    config: { kind: "string", value: "FILE.yaml", help: "the machine and the run; the script says the rest" },
    steps: { kind: "number", value: "N", help: "steps to run to", integer: true, min: 1 },
    seed: { kind: "number", value: "S", help: "what all randomness starts from", integer: true, min: 0 },
    out: { kind: "string", value: "FOLDER", help: "output folder" },
    resume: { kind: "flag", help: "go on from the newest checkpoint of the output folder" },
    json: { kind: "flag", help: "the metrics of every step as one line of JSON on stdout" },
  },
  examples: [
    ["baton run examples/ppo.ts --steps 20 --out runs/try", "20 steps into a folder"],
    ["baton run examples/ppo.ts --out runs/try --steps 40 --resume", "20 more"],
    ["baton run train.ts --json -- --lr 1e-4 > metrics.jsonl", "with a flag for the script itself"],
  ],
  run: async ({ positional, rest, values }, io) => {
    const workflow = await loadWorkflow(positional[0]!, rest);
    const options: RunOptions = {
      ...(values.config === undefined ? {} : { config: values.config }),
      ...(values.steps === undefined ? {} : { steps: values.steps }),
      ...(values.seed === undefined ? {} : { seed: values.seed }),
      ...(values.out === undefined ? {} : { out: values.out }),
      resume: values.resume,
    };
    const { run, steps } = await runner();
    if (!values.json) await run(workflow, options);
    else {for await (const { step, metrics } of steps(workflow, options)) {
        io.out(JSON.stringify({ step, ...metrics }));
      }}
    return 0;
  },
});
