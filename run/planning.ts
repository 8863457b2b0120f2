/** Plans a workflow for devices that need not be there: configs of its models and lengths of its texts are enough. */
import { type ModelConfig, parseConfig } from "../compiler/models/config.ts";
import { type Layout, type Precision, SINGLE, type Storage } from "../compiler/models/storage.ts";
import type { DataSizes } from "../compiler/sizes.ts";
import { readJsonOrNull } from "../engine/files.ts";
import type { CallGraph, GenerateCall } from "../ir/graph.ts";
import type { CostInput } from "../planner/call_cost.ts";
import type { Profile } from "../planner/profile.ts";
import { refusalOf, refusalText } from "../planner/refusal.ts";
import { search, type SearchOptions, type SearchResult } from "../planner/search.ts";
import type { Workload } from "../planner/workload.ts";
import type { ClusterFile } from "./cluster.ts";
import { stored } from "./models.ts";

/** Lengths that are planned for; several are equally likely. */
export interface PlannedLengths {
  /** Tokens of prompts; of conversations and pairs, of what is no action. */
  readonly prompts?: readonly number[];
  /** Tokens of responses; all that the script allows by default. */
  readonly responses?: readonly number[];
  /** Seconds that score calls take for a whole step, by call. */
  readonly hostSeconds?: Workload["hostSeconds"];
}

/** Tokens of a prompt, where nobody says. */
const USUAL_PROMPT = 1024;

/** The precision that a profile's tables were measured in. */
export const precisionOf = ({ elementBytes }: Pick<Profile, "elementBytes">): Precision =>
  elementBytes === 2 ? "bf16" : "fp32";

/** How weights lie on devices that a profile is of: tables in bf16 are of GPUs. */
export const layoutOf = ({ elementBytes }: Pick<Profile, "elementBytes">): Layout =>
  elementBytes === 2 ? "rows" : "panels";

/**
 * @param folders of models, by name; those of the script otherwise
 * @param storage what models are stored in
 * @throws one line when a config.json is missing or wrong
 */
export async function readConfigs(
  graph: CallGraph,
  folders: Readonly<Record<string, string>> = {},
  storage: Storage = SINGLE,
): Promise<Record<string, ModelConfig>> {
  const unknown = Object.keys(folders).find((name) => !(name in graph.models));
  if (unknown !== undefined) {
    throw new TypeError(
      `Cannot plan ${graph.name}: it has no model "${unknown}", name one of ${
        Object.keys(graph.models).join(", ")
      }`,
    );
  }
  const configs: Record<string, ModelConfig> = {};
  for (const [name, spec] of Object.entries(graph.models)) {
    const { checkpoint, lora } = spec;
    const folder = folders[name] ?? checkpoint,
      path = folder.endsWith(".json") ? folder : `${folder}/config.json`;
    const json = await readJsonOrNull(path);
    if (json === null) {
      throw new Error(
        `Cannot plan ${graph.name}: there is no file ${path}, give --model ${name}=FOLDER with a config.json`,
      );
    }
    configs[name] = { ...parseConfig(json, path), ...(lora && { lora }), ...stored(spec, storage) };
  }
  return configs;
}

/** How much work a step of a graph is, from lengths alone. */
export function workloadOf(
  graph: CallGraph,
  configs: Readonly<Record<string, ModelConfig>>,
  { prompts, responses, hostSeconds = {} }: PlannedLengths,
): Workload {
  const generates = graph.calls.filter((c): c is GenerateCall => c.kind === "generate");
  const context = Math.min(...Object.values(configs).map((c) => c.maxPositions));
  const most = generates.length
    ? Math.max(...generates.map((c) => c.sampling.maxNewTokens))
    : Math.floor(context / 2);
  const made = responses ?? [Math.min(most, context - 1)],
    longestResponse = generates.length ? most : Math.max(...made);
  const given = prompts ?? [Math.max(1, Math.min(USUAL_PROMPT, context - longestResponse))];
  const tooLong = Math.max(...given) + longestResponse;
  if (tooLong > context) {
    throw new RangeError(
      `Cannot plan ${graph.name}: prompts of ${
        Math.max(...given)
      } and responses of ${longestResponse} tokens need ${tooLong} and the models reach to ${context}, give shorter ones`,
    );
  }
  if (Math.max(...made) > longestResponse) {
    throw new RangeError(
      `Cannot plan ${graph.name}: responses of ${
        Math.max(...made)
      } tokens are longer than the ${longestResponse} of maxNewTokens, give shorter ones`,
    );
  }
  const { kind, batch } = graph.source, samples = generates[0]?.sampling.samples ?? 1;
  const group = kind === "pairs" ? 2 : samples;
  const sizes: DataSizes = {
    sequences: batch * group,
    group,
    longestPrompt: generates.length ? Math.max(...given) : 0,
    longest: Math.max(...given) + longestResponse,
    longestResponse,
  };
  return { sizes, prompts: given, responses: made, hostSeconds };
}

/** A search that found a plan, and what it was asked. */
export interface Planned {
  readonly input: CostInput;
  readonly result: SearchResult;
  /** Wall-clock seconds of the search. */
  readonly searchSeconds: number;
}

/** @throws RangeError that says what does not fit and what would, when no plan does */
export function planWorkflow(
  graph: CallGraph,
  { cluster, profile }: Pick<ClusterFile, "cluster" | "profile">,
  configs: Readonly<Record<string, ModelConfig>>,
  workload: Workload,
  options: SearchOptions & Pick<CostInput, "scales"> & {
    /** There can be no more devices than these. */
    readonly fixed?: boolean;
  } = {},
): Planned {
  const input = {
      graph,
      configs,
      cluster,
      profile,
      workload,
      ...options.scales && { scales: options.scales },
    },
    start = performance.now(),
    result = search(input, options);
  if (!result.best) throw new RangeError(refusalText(graph.name, input, refusalOf(input, result, options)));
  return { input, result, searchSeconds: (performance.now() - start) / 1000 };
}
