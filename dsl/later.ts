/** What a later version runs and this one only types, so that scripts can be written now. Using it throws. */
import { at } from "./site.ts";

/** Options of `generate` that a later version has. */
export interface LaterOptions {
  /**
   * Stores which tokens top-k and top-p kept at each action, so that training renormalizes over the same set and ratios are
   * not biased.
   */
  readonly keepSampledMask?: boolean;
}

export function refuseLater({ keepSampledMask }: LaterOptions, site: string | undefined): void {
  if (!keepSampledMask) return;
  throw new RangeError(
    `Cannot generate with keepSampledMask: it is not in this version of Baton, sample without topK and topP where you train${
      at(site)
    }`,
  );
}
