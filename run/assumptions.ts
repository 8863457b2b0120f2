/** What the plans of a run are made with, beside its graph, its models and its data. */
import type { DataSet } from "../engine/data.ts";
import { type CallGraph, isHostCall } from "../ir/graph.ts";
import type { Cluster } from "../ir/plan.ts";
import type { DataSizes } from "../compiler/sizes.ts";
import type { CostInput } from "../planner/call_cost.ts";
import type { Profile } from "../planner/profile.ts";
import { quantiles } from "./lengths.ts";
import type { LoadedModel } from "./models.ts";

/** What its user and its machine say. */
export interface Assumptions {
  readonly profile: Profile;
  readonly links: Cluster["links"];
  /** Seconds that score calls take for a whole step, by call; 0 where nobody says. */
  readonly hostSeconds: Readonly<Record<string, number>>;
}

/**
 * The planner's question for a run: prompts as long as the data's; responses as long as they may be, for nobody knows them
 * before.
 *
 * @param cluster devices of the run; their links are the assumptions'
 * @throws TypeError when seconds are given for what is no score call
 */
export function costInput(
  graph: CallGraph,
  models: Readonly<Record<string, LoadedModel>>,
  cluster: Cluster,
  sizes: DataSizes,
  data: DataSet,
  { profile, links, hostSeconds }: Assumptions,
): CostInput {
  const given = data.training.flatMap(({ prompt, tokens }) =>
    prompt
      ? [{ prompt: prompt.ids.length, response: sizes.longestResponse }]
      : typeof tokens === "object"
      ? [{ prompt: tokens.ids.length - tokens.actions.length, response: tokens.actions.length }]
      : []
  );
  const writes = graph.calls.some((c) => c.kind === "generate");
  return {
    graph,
    configs: Object.fromEntries(Object.keys(graph.models).map((name) => [name, models[name]!.config])),
    cluster: { ...cluster, links },
    profile,
    workload: {
      sizes,
      prompts: quantiles(given.length ? given.map((g) => g.prompt) : [sizes.longest - sizes.longestResponse]),
      responses: writes || !given.length
        ? [Math.max(1, sizes.longestResponse)]
        : quantiles(given.map((g) => g.response)),
      hostSeconds: hostSecondsOf(graph, hostSeconds),
    },
  };
}

/**
 * @param said by call, or by the field that the call writes
 * @throws TypeError naming the calls of the host that there are, when another one is meant
 */
export function hostSecondsOf(
  graph: CallGraph,
  said: Readonly<Record<string, number>>,
): Readonly<Record<string, number>> {
  const known = graph.calls.filter(isHostCall);
  return Object.fromEntries(
    Object.entries(said).map(([name, seconds]) => {
      const call = known.find((c) => c.id === name) ??
        known.find((c) => Object.values(c.writes).includes(name));
      if (call) return [call.id, seconds];
      throw new TypeError(
        `Cannot plan ${graph.name}: seconds are given for "${name}", which is no call of the host, ` +
          (known.length ? `name one of ${known.map((c) => c.id).join(", ")}` : "it has none, leave them out"),
      );
    }),
  );
}

/** "rewards=0.05,judge=2" → seconds by call. A string is what is wrong with the text. */
export function parseHost(text: string): Readonly<Record<string, number>> | string {
  const pairs = text.split(",").map((pair) => pair.split("="));
  const fits = pairs.every(([name, value, ...rest]) =>
    name && value && !rest.length && Number(value) >= 0 && Number(value) < Infinity
  );
  return fits
    ? Object.fromEntries(pairs.map(([name, value]) => [name!, Number(value)]))
    : `is "${text}", it must be the seconds of calls, as rewards=0.05`;
}
