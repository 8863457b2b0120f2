/** How `generate` samples: its options, their defaults and limits. */
import { MOST_KEPT, type Sampling } from "../ir/graph.ts";
import { positive, refuse, whole } from "./options.ts";
import { at } from "./site.ts";

/** Options of `generate`, all of which have a default. */
export interface SamplingOptions extends Partial<Omit<Sampling, "keepSampledMask">> {
  /**
   * Stores with every action which tokens topK and topP kept. Log-probabilities and entropies of its samples, those that
   * `generate` writes and those of every model that reads them, are then of the softmax over these tokens, so that ratios are
   * not biased by the truncation (DeepSeek-AI 2025, "DeepSeek-V3.2", §3.1, keep sampling mask). Needs topK, at most 1024: as
   * many token ids are stored for an action.
   */
  readonly keepSampledMask?: boolean;
}

const DEFAULTS: Sampling = {
  maxNewTokens: 512,
  temperature: 1,
  topK: 0,
  topP: 1,
  samples: 1,
  stop: [],
  ignoreEos: false,
  maxLag: 0,
};

/** @throws RangeError that lists every option that is unknown or out of range */
export function sampling(options: SamplingOptions, site: string | undefined): Sampling {
  const { keepSampledMask = false, ...given } = options, s = { ...DEFAULTS, ...given };
  refuse(`generate${at(site)}`, [
    ...Object.keys(s).filter((k) => !(k in DEFAULTS)).map((k) => `there is no option ${k}`),
    positive("maxNewTokens", s.maxNewTokens, "whole"),
    positive("samples", s.samples, "whole"),
    whole("topK", s.topK),
    whole("maxLag", s.maxLag),
    !(s.temperature >= 0 && s.temperature < Infinity) &&
    `temperature is ${s.temperature}, it must be 0 (greedy) or more`,
    !(s.topP > 0 && s.topP <= 1) && `topP is ${s.topP}, it must be above 0 and at most 1`,
    !(Array.isArray(s.stop) && s.stop.every((t) => Number.isInteger(t) && t >= 0)) &&
    "stop is not a list of token ids",
    ...keepSampledMask ? keptViolations(s) : [],
  ]);
  return keepSampledMask ? { ...s, keepSampledMask } : s;
}

/** What keeps the kept tokens from being stored. */
const keptViolations = ({ topK, temperature }: Sampling): (string | false)[] => [
  !(topK >= 1 && topK <= MOST_KEPT) &&
  `keepSampledMask stores at most topK tokens for every action and topK is ${topK}, give one from 1 to ${MOST_KEPT}`,
  temperature === 0 &&
  "keepSampledMask stores what sampling kept and temperature 0 samples nothing, leave it out",
];
