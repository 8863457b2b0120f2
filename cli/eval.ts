/** `baton eval`: the held-out metrics of a script's models. */
import { columns } from "../ir/print.ts";
import type { Evaluation } from "../run/evaluation.ts";
import { runner } from "./api.ts";
import { command } from "./command.ts";
import { RUN_OPTIONS, runOptions } from "./options.ts";
import { loadScript } from "./script.ts";

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
    json: { kind: "flag", help: "the result as one line of JSON" },
  },
  examples: [
    ["baton eval examples/ppo.ts", "the models that the script starts from"],
    ["baton eval examples/ppo.ts --out runs/try --resume", "the models that a run has made so far"],
  ],
  run: async ({ positional, rest, values }, io) => {
    const { workflow, url } = await loadScript(positional[0]!, rest);
    const { evaluate } = await runner();
    const { samples: _, ...result } = await evaluate(workflow, { ...runOptions(values), script: url });
    io.out(values.json ? JSON.stringify(result) : evaluationText(result));
    return 0;
  },
});

/** One row per metric: mean and standard error where there is one. */
export function evaluationText(
  { sequences, fields, distinct2, reference }: Omit<Evaluation, "samples">,
): string {
  const rows = Object.entries(fields).map(([name, { mean, error }]) => [
    name,
    `${mean.toPrecision(5)} ± ${error.toPrecision(2)}`,
  ]);
  rows.push(["distinct-2", distinct2.toPrecision(3)]);
  if (reference) {
    const { klK1, klK3, loss } = reference;
    rows.push([
      "KL to the reference, nats per token",
      `${klK1.toPrecision(3)} (k1), ${klK3.toPrecision(3)} (k3)`,
    ]);
    rows.push(["reference model's loss, nats per token", loss.toPrecision(4)]);
  }
  return columns([...rows, ["sequences", String(sequences)]], "");
}
