/** What there is to print about a set of samples, before and after training. */
import { judge } from "./rhyme.ts";
import { words } from "./verses.ts";

/** A prompt and what a model made of it, without the stop token. */
export interface Sample {
  readonly prompt: string;
  readonly response: string;
}

/** Shares of the samples, from 0 to 1. */
export interface Measures {
  readonly rhyming: number;
  readonly echoing: number;
  readonly wellFormed: number;
  /** Rhyming and well formed: what the task is about. */
  readonly couplets: number;
  /** Different pairs of neighbouring words over all such pairs (Li et al. 2016, "distinct-2"), of the responses. */
  readonly distinct2: number;
}

/**
 * Measures samples.
 *
 * @throws {RangeError} When there are none.
 */
export function measure(samples: readonly Sample[]): Measures {
  if (samples.length === 0) throw new RangeError("Cannot measure samples: there are none, give at least one");
  const verdicts = samples.map(({ prompt, response }) => judge(prompt, response));
  const share = (holds: (verdict: typeof verdicts[number]) => boolean): number =>
    verdicts.filter(holds).length / verdicts.length;
  return {
    rhyming: share((verdict) => verdict.rhymes),
    echoing: share((verdict) => verdict.echoes),
    wellFormed: share((verdict) => verdict.wellFormed),
    couplets: share((verdict) => verdict.rhymes && verdict.wellFormed),
    distinct2: distinct2(samples.map(({ response }) => response)),
  };
}

/** Different pairs of neighbouring words over all such pairs; 0 when no text has two words. */
export function distinct2(texts: readonly string[]): number {
  const pairs = texts.flatMap((text) => {
    const spoken = words(text.toLowerCase());
    return spoken.slice(1).map((word, i) => `${spoken[i]} ${word}`);
  });
  return pairs.length === 0 ? 0 : new Set(pairs).size / pairs.length;
}
