/** Where and how every call runs. Plain JSON. */

/** Devices of one run: `cpu:1` is one device on the CPU. Links are filled when there is more than one device. */
export interface Cluster {
  readonly nodes: number;
  readonly devicesPerNode: number;
  /** Bytes that Baton may use on each device. */
  readonly memoryBytes: number;
  readonly links: readonly {
    readonly devices: number;
    readonly microseconds: number;
    readonly GBps: number;
  }[];
}

/** A rectangle of the cluster: some devices of one node, or whole nodes. */
export interface DeviceMesh {
  readonly node: number;
  readonly nodes: number;
  readonly device: number;
  readonly devices: number;
}

/** dp · tp · pp equals the number of devices in the mesh. */
export interface ParallelStrategy {
  readonly dp: number;
  readonly tp: number;
  readonly pp: number;
}

/**
 * What the backward pass makes again, each with what stands before it: nothing, the logits of a vocabulary head, norms and
 * activations, or whole layers.
 */
export const RECOMPUTE = ["nothing", "logits", "cheap", "layers"] as const;
export type Recompute = typeof RECOMPUTE[number];

export interface Assignment {
  readonly mesh: DeviceMesh;
  readonly strategy: ParallelStrategy;
  /** Most tokens in one micro-batch (infer, train) or one prefill (generate). */
  readonly microBatchTokens: number;
  /** Optimizer states sharded over dp (1) or not (0); only for train. */
  readonly zero: 0 | 1;
  readonly recompute: Recompute;
  /** Keep the replica in host memory between uses. */
  readonly offload: boolean;
}

export interface ExecutionPlan {
  readonly version: 1;
  /** Digest of the CallGraph this plan was made for; a stale plan is refused. */
  readonly graph: string;
  readonly cluster: Cluster;
  readonly assignments: Readonly<Record<string, Assignment>>;
}

/**
 * Name of one copy of a model's parameters under one layout: "actor@0" holds what is trained and saved, the others are made
 * from it.
 */
export type Replica = string;

export interface ReplicaSpec {
  readonly model: string;
  readonly mesh: DeviceMesh;
  readonly strategy: ParallelStrategy;
  /** Sharding of the optimizer states of a trained home. */
  readonly zero: 0 | 1;
  /** The copy that is loaded, trained and saved. */
  readonly home: boolean;
  /**
   * "device": it keeps its memory from step to step. "pool": it has memory from the instruction that makes it to the one that
   * frees or offloads it, and others have that memory otherwise.
   */
  readonly residence: "device" | "pool";
  /** Versions that it may be behind the newest: a copy for generation with lag, which has memory of its own in any case. */
  readonly lag: number;
}

/**
 * What happens, in an order that every device follows for its own part. An instruction starts when those at `after` (positions
 * in the same list) and at `afterPrevious` (positions in the step before) have ended; whatever they do not order may overlap.
 */
export type Instruction = Action & Waits;

export type Action =
  /** Reads weights from the model's checkpoint folder. */
  | { readonly op: "load"; readonly replica: Replica; readonly model: string }
  /** Brings `to` to the version of `from`: copies, or blends as weight · from + (1 − weight) · to. */
  | { readonly op: "reallocate"; readonly from: Replica; readonly to: Replica; readonly weight: number }
  | { readonly op: "run"; readonly call: string; readonly replica: Replica | null }
  /** Gives the memory of a replica that is not needed any more in this step to others. */
  | { readonly op: "free"; readonly replica: Replica }
  /** Moves a replica to host memory, and back: its optimizer states apart, which are needed only where it is trained. */
  | { readonly op: "offload" | "fetch"; readonly replica: Replica; readonly part: "params" | "moments" };

export interface Waits {
  /** Devices that are busy with it, in ascending order; none for what runs on the host. */
  readonly devices: readonly number[];
  readonly after: readonly number[];
  readonly afterPrevious: readonly number[];
}

/** Totally ordered; `prologue` runs once, `step` every step. */
export interface Schedule {
  readonly version: 1;
  readonly replicas: Readonly<Record<Replica, ReplicaSpec>>;
  readonly prologue: readonly Instruction[];
  readonly step: readonly Instruction[];
}
