/** What a generate call is asked for and what it answers. */
import type { StreamKey } from "./random.ts";

/** What the programs of a generate call hold: see `compiler/programs.ts`. */
export interface GenerateSizes {
  readonly slots: number;
  readonly pages: number;
  readonly maxPages: number;
  readonly maxNew: number;
  readonly prefillTokens: number;
}

export interface RolloutSizes extends GenerateSizes {
  /**
   * Decode steps of one round. The host prepares the next round while the last step of this one runs, so the device does not
   * wait for it; an end of sequence is learnt up to this many steps later.
   */
  readonly round: number;
}

/** What to continue, and how. */
export interface GenerateRequest {
  readonly prompts: readonly Int32Array[];
  /** Counter of each prompt's randomness: its index in the step's batch. */
  readonly indices: readonly number[];
  readonly samples: number;
  readonly maxNewTokens: number;
  /** Kept tokens that are stored with every action, where any are. */
  readonly kept?: number;
  /** Fewer tokens for some prompts: one number each. */
  readonly limits?: readonly number[];
  readonly stops: readonly number[];
  /** Philox key of this call in this step. */
  readonly key: StreamKey;
  readonly maxPositions: number;
  /** Called with the response tokens made so far. */
  readonly onTokens?: (tokens: number) => void;
  readonly signal?: AbortSignal;
  /** Called between rounds; throws when the cache does not belong to the weights any more. */
  readonly check?: () => void;
}

/** What the model said. */
export interface Response {
  readonly prompt: number;
  /** All that follows the prompt. */
  readonly tokens: Int32Array;
  /** Positions in `tokens` of those that the model chose; all of them where no tool answered. */
  readonly actions?: Int32Array;
  /** Of the actions. */
  readonly logprobs: Float32Array;
  /** Of the actions, as many for each as the request says: see `TokenColumn`. */
  readonly kept?: Int32Array;
  /** A stop token was seen; otherwise it was cut by length. */
  readonly finished: boolean;
}
