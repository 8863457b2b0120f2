/** What a train call is asked for. */
import type { AdamW, TrainCall } from "../ir/graph.ts";
import type { Batch } from "./batch.ts";
import type { StreamKey } from "./random.ts";

export interface TrainRequest {
  readonly call: TrainCall;
  readonly batch: Batch;
  /** Token field that is trained on. */
  readonly tokens: string;
  /** Sequences that must stay in one micro-batch: 1, 2 for pairs, or the group size. */
  readonly together: number;
  readonly optimizer: AdamW;
  /** Optimizer updates done before this call, and all that the run will do. */
  readonly updates: number;
  readonly totalUpdates: number;
  readonly states: ReadonlyMap<string, number>;
  /** Randomness of the mini-batch permutation of one epoch. */
  readonly key: (epoch: number) => StreamKey;
  /**
   * Field with the log-probabilities recorded when sampling, compared with the first training pass; null where other weights
   * sampled than those that are trained.
   */
  readonly sampledLogprobs: string | null;
  readonly onMicroBatch?: (done: number, of: number) => void;
  /** Before each update is made; with `false` when the first one turned out not to have been. */
  readonly onUpdate?: (begun: boolean) => void;
}
