/** `baton run`: trains what a script describes. */
import { runner } from "./api.ts";
import { command } from "./command.ts";
import { RUN_OPTIONS, runOptions } from "./options.ts";
import { loadScript } from "./script.ts";

/** Exit code after Ctrl-C, as shells have it: 128 + SIGINT. */
const INTERRUPTED = 130;

export const run = command({
  name: "run",
  summary: "train what a script describes",
  usage: "SCRIPT [options] [-- script flags]",
  positional: 1,
  about: [
    "Imports the script and runs the workflow that it exports by default, with live progress on stderr. The output folder",
    "gets metrics.jsonl, samples.jsonl, evaluations.jsonl, report.html, checkpoints and the trained models. The first",
    "Ctrl-C writes a checkpoint that --resume continues from bit for bit; the second ends at once.",
  ].join("\n"),
  options: {
    ...RUN_OPTIONS,
    steps: { kind: "number", value: "N", help: "steps in all", integer: true, min: 1 },
    "save-every": {
      kind: "number",
      value: "N",
      help: "steps between checkpoints; 0 writes only the last",
      integer: true,
      min: 0,
    },
    replan: {
      kind: "flag",
      help: "plan again at a step's end when lengths or times differ from what was planned with",
    },
    resume: { kind: "flag", help: "go on from the newest checkpoint of the output folder" },
    json: { kind: "flag", help: "the metrics of every step as one line of JSON on stdout" },
  },
  examples: [
    ["baton run examples/ppo.ts --steps 20 --out runs/try", "20 steps into a folder"],
    ["baton run examples/ppo.ts --out runs/try --steps 40 --resume", "20 more"],
    [
      "baton run examples/ppo.ts --devices cpu:8 --strategy dp4pp2",
      "eight virtual devices, one layout for all calls",
    ],
    [
      "baton run examples/ppo.ts --devices cpu:8 --plan examples/plans/ppo_hand.yaml",
      "one layout for each call",
    ],
    ["baton run train.ts --json -- --lr 1e-4 > metrics.jsonl", "with a flag for the script itself"],
  ],
  run: async ({ positional, rest, values }, io) => {
    const { workflow, url } = await loadScript(positional[0]!, rest);
    const options = { ...runOptions({ ...values, saveEvery: values["save-every"] }), script: url };
    const all = (await runner()).steps(workflow, options);
    for (let next = await all.next();; next = await all.next()) {
      if (next.done) return next.value.interrupted ? INTERRUPTED : 0;
      if (values.json) io.out(JSON.stringify({ step: next.value.step, ...next.value.metrics }));
    }
  },
});
