/** `baton plan`: the plan of a script for a cluster, without its devices and without weights. */
import { type Precision, PRECISIONS, type Storage, storedIn } from "../compiler/models/storage.ts";
import { replaceFile } from "../engine/files.ts";
import { table } from "../engine/table.ts";
import { explain } from "../planner/explain.ts";
import { printPlan } from "../planner/plan_file.ts";
import type { Profile } from "../planner/profile.ts";
import { hostSecondsOf, parseHost } from "../run/assumptions.ts";
import { readCluster } from "../run/cluster.ts";
import { planPage, planRemarks, planTables } from "../run/plan_tables.ts";
import { layoutOf, planWorkflow, precisionOf, readConfigs, workloadOf } from "../run/planning.ts";
import { command, UsageError } from "./command.ts";
import { HOST, PRECISION } from "./options.ts";
import { loadScript } from "./script.ts";

export const plan = command({
  name: "plan",
  summary: "find the fastest plan of a script for a cluster",
  usage: "SCRIPT --cluster FILE.yaml [options] [-- script flags]",
  positional: 1,
  about: [
    "Searches for the devices and the dp × tp × pp of every call, and says how far from the best plan the answer is at most.",
    "Needs no devices of that kind and no weights: config.json of every model is enough. The plan file is for --plan of a run.",
  ].join("\n"),
  options: {
    cluster: { kind: "string", value: "FILE.yaml", help: "the cluster, as in examples/cluster" },
    model: {
      kind: "string",
      value: "NAME=FOLDER",
      help: "config.json of a model; several, with commas or flags",
      several: true,
    },
    prompt: { kind: "string", value: "N,…", help: "tokens of prompts, equally likely; 1024 by default" },
    response: {
      kind: "string",
      value: "N,…",
      help: "tokens of responses, equally likely; maxNewTokens by default",
    },
    host: HOST,
    out: {
      kind: "string",
      value: "FILE",
      help: "writes the plan: YAML, or JSON for a name in .json",
      short: "o",
    },
    html: { kind: "string", value: "FILE", help: "writes a page with tables and the predicted timeline" },
    precision: {
      ...PRECISION.precision,
      help: "what models are stored in; that of the profile's tables by default: bf16 for GPUs",
    },
    gradients: PRECISION.gradients,
    seed: { kind: "number", value: "S", help: "of the search", integer: true, min: 0, default: 1 },
    steps: { kind: "number", value: "N", help: "points that the search looks at", integer: true, min: 0 },
    json: { kind: "flag", help: "the plan and its explanation as one line of JSON" },
  },
  examples: [
    ["baton plan examples/ppo.ts --cluster examples/cluster/laptop.yaml", "for two CPU devices"],
    [
      "baton plan examples/ppo.ts --cluster examples/cluster/h100x8.yaml --model actor=llama-7b,ref=llama-7b --prompt 1024",
      "other models on eight GPUs",
    ],
    [
      "baton plan train.ts --cluster mine.yaml -o plan.yaml --html plan.html",
      "for `baton run train.ts --plan plan.yaml`",
    ],
  ],
  run: async ({ positional, rest, values }, io) => {
    if (values.cluster === undefined) {
      throw new UsageError(
        "Cannot run baton plan: --cluster is needed, as --cluster=examples/cluster/h100x8.yaml",
      );
    }
    const cluster = await readCluster(values.cluster),
      { workflow: { graph } } = await loadScript(positional[0]!, rest);
    const storage = storageOf(values, cluster.profile);
    const configs = await readConfigs(graph, foldersOf(values.model), storage);
    const prompts = lengthsOf("prompt", values.prompt), responses = lengthsOf("response", values.response);
    const said = values.host === undefined ? {} : parseHost(values.host);
    if (typeof said === "string") throw new UsageError(`Cannot run baton plan: --host ${said}`);
    const hostSeconds = hostSecondsOf(graph, { ...cluster.hostSeconds, ...said });
    const workload = workloadOf(graph, configs, {
      ...prompts && { prompts },
      ...responses && { responses },
      hostSeconds,
    });
    const { seed, steps } = values,
      planned = planWorkflow(graph, cluster, configs, workload, {
        seed,
        ...steps !== undefined && { steps },
      });
    const explanation = explain(planned.result), found = planned.result.evaluator.plan(planned.result.best!);
    if (values.out !== undefined) {
      await replaceFile(
        values.out,
        values.out.endsWith(".json") ? `${JSON.stringify(found, null, 2)}\n` : printPlan(found),
      );
    }
    if (values.html !== undefined) await replaceFile(values.html, planPage(planned, explanation));
    if (values.json) {
      io.out(JSON.stringify({ plan: found, ...explanation }));
      return 0;
    }
    for (const { title, columns, rows } of planTables(explanation)) {
      io.out(`${title}\n${table(columns, rows)}\n`);
    }
    for (const line of planRemarks(explanation, planned)) io.out(line);
    return 0;
  },
});

/** What models are stored in. */
function storageOf(
  values: { readonly precision: string | undefined; readonly gradients: string | undefined },
  profile: Profile,
): Storage {
  const precision = values.precision ?? precisionOf(profile), gradients = values.gradients ?? "fp32";
  for (const [name, value] of Object.entries({ precision, gradients })) {
    if ((PRECISIONS as readonly string[]).includes(value)) continue;
    throw new UsageError(
      `Cannot run baton plan: --${name} is "${value}" and has to be ${PRECISIONS.join(" or ")}`,
    );
  }
  return storedIn(precision as Precision, gradients as Precision, layoutOf(profile));
}

/** "actor=a,ref=b" → folders by model. */
function foldersOf(text: string | undefined): Record<string, string> {
  const pairs = text === undefined ? [] : text.split(",").map((pair) => pair.split("="));
  const wrong = pairs.find((pair) => pair.length !== 2 || !pair[0] || !pair[1]);
  if (wrong) {
    throw new UsageError(`Cannot run baton plan: --model is "${wrong.join("=")}" and has to be NAME=FOLDER`);
  }
  return Object.fromEntries(pairs as [string, string][]);
}

function lengthsOf(name: string, text: string | undefined): number[] | undefined {
  if (text === undefined) return undefined;
  const all = text.split(",").map(Number);
  if (all.every((n) => Number.isInteger(n) && n > 0)) return all;
  throw new UsageError(
    `Cannot run baton plan: --${name} is "${text}" and has to be whole numbers above 0, with commas between`,
  );
}
