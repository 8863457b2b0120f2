/** Seconds and bytes of a generate call: prefills, then decode steps whose cost grows with the context. */
import { compileCopyPages, compileDecode, compilePrefill } from "../compiler/compile.ts";
import { cacheSizes, generateGroups, generateMaxima } from "../compiler/sizes.ts";
import type { GenerateCall } from "../ir/graph.ts";
import { align, PAGE } from "../ir/op.ts";
import {
  assigned,
  type CallCost,
  type CallLayout,
  type Pricing,
  sizesKey,
  type StageBytes,
} from "./call_cost.ts";
import type { Live } from "./price.ts";
import { phasesOf, Surface } from "./rollout.ts";

/** See `Costs.of` in `cost.ts`. */
export function generateCost(call: GenerateCall, layout: CallLayout, costs: Pricing): CallCost {
  const { workload: { sizes }, configs, profile } = costs.input,
    { strategy } = layout,
    { dp, tp, pp } = strategy;
  const { stages, of } = costs.staged(call, layout),
    groups = costs.groups(call, layout),
    a = assigned(layout);
  const o = { maxNew: call.sampling.maxNewTokens, stops: Math.max(1, call.sampling.stop.length) };
  const full = cacheSizes(configs[call.model]!, a, sizes, o), maxima = generateMaxima(a, sizes, full);
  const pages = Math.max(full.maxPages, Math.floor(full.pages * layout.pages));
  const g = { sampling: call.sampling, ...full },
    key = `${call.id} ${full.slots} ${sizesKey(maxima.prefill)}`;
  const programs = stages.map((stage) => ({
    prefill: of(stage, `prefill ${key}`, (s) => compilePrefill(s, { ...g, maxima: maxima.prefill })),
    decode: of(stage, `decode ${key}`, (s) => compileDecode(s, { ...g, maxima: maxima.decode })),
    copy: of(stage, `copy ${key}`, (s) => compileCopyPages(s, { ...g, maxima: maxima.decode })),
  }));
  const rollouts = generateGroups(strategy), own = costs.share(dp * rollouts);
  // A sequence of mean length takes so many pages when it ends.
  const mean = own.reduce((n, s) => n + s.prompt + s.response, 0) / Math.max(1, own.length);
  const slots = Math.max(1, Math.min(full.slots, Math.floor(pages / (mean / PAGE + 1))));
  const live = (rows: number, context: number): Live => ({
    one: 1,
    tokens: rows,
    actions: 0,
    sequences: rows,
    groups: 0,
    pairs: 0,
    shard: tp > 1 ? rows / tp : 0,
    context,
  });
  /** One step of every rollout of the pipeline: its stages work on different ones. */
  const turn = (each: readonly number[]) =>
    Math.max(each.reduce((n, s) => n + s, 0), rollouts * Math.max(...each));
  const hand = (tokens: number) => pp > 1 ? costs.handOver(call, layout, tokens) : 0;
  const decode = new Surface(
    (rows, context) =>
      turn(programs.map((p) => costs.price(p.decode, live(rows, context), groups) + hand(rows))),
    [1, sizes.longest / 4, sizes.longest / 2, sizes.longest],
  );
  const round = profile.roundMicroseconds * 1e-6;
  let busy = 0, rounds = 0;
  for (const { steps, rows, context } of phasesOf(own, slots)) {
    busy += steps * decode.at(rows, context);
    rounds += steps * round;
  }
  const prompts = Math.ceil(own.length / call.sampling.samples),
    length = own.reduce((n, s) => n + s.prompt, 0) / own.length;
  const budget = Math.max(1, Math.floor(maxima.prefill.tokens / Math.max(1, length)));
  // Prompts enter together at first, later as others leave; a prefill holds as many as its tokens allow.
  const together = Math.max(1, Math.min(budget, Math.ceil(slots / call.sampling.samples), prompts));
  const prefills = Math.ceil(prompts / together), tokens = prompts / prefills * length;
  const entering: Live = {
    ...live(tokens, 0),
    actions: own.length / prefills,
    sequences: prompts / prefills,
  };
  const prefill = turn(programs.map((p) => costs.price(p.prefill, entering, groups) + hand(tokens)));
  busy += prefills * prefill;
  rounds += prefills * costs.hostRound(tokens);
  const bytes = programs.map(({ prefill, decode, copy }): StageBytes => {
    const all = [prefill, decode, copy].map((p) => p.segmentBytes);
    const most = (segment: "kv" | "state") => Math.max(...all.map((b) => b[segment]));
    const io = all.reduce((n, b) => n + b.inputs + b.outputs, 0);
    return {
      turn: align(Math.max(...all.map((b) => b.arena))) +
        rollouts * align(Math.ceil(most("kv") * pages / full.pages)),
      own: rollouts * (io + most("state")),
      constants: Math.max(...all.map((b) => b.constants)),
    };
  });
  // Stages are about equal: while one rollout is in each of them, all are busy.
  return {
    seconds: busy + rounds,
    bubble: 0,
    work: dp * tp * pp * busy,
    host: dp * rollouts * rounds,
    stages: bytes,
  };
}
