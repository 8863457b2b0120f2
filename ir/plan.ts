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

export interface Assignment {
  readonly mesh: DeviceMesh;
  readonly strategy: ParallelStrategy;
  /** Most tokens in one micro-batch (infer, train) or one prefill (generate). */
  readonly microBatchTokens: number;
  /** Optimizer states sharded over dp (1) or not (0); only for train. */
  readonly zero: 0 | 1;
  /** What the backward pass makes again: nothing, norms and swiglu, or whole layers. */
  readonly recompute: "nothing" | "cheap" | "layers";
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

/** One copy of a model's parameters under one assignment, "actor@0". */
export type Replica = string;

/** What a device does, in order. One queue needs no wait edges: a call runs after those that wrote what it reads. */
export type Instruction =
  | { readonly op: "load"; readonly replica: Replica; readonly model: string }
  | { readonly op: "run"; readonly call: string; readonly replica: Replica | null };

/** Totally ordered; `prologue` runs once, `step` every step. */
export interface Schedule {
  readonly version: 1;
  readonly prologue: readonly Instruction[];
  readonly step: readonly Instruction[];
}
