/** The call graph: what a workflow does, without where or when. Plain JSON. */
import type { Expr } from "./expr.ts";
import type { Schema } from "./field.ts";

/** AdamW with decoupled weight decay (Loshchilov & Hutter 2019) and global-norm clipping (DESIGN §4). */
export interface AdamW {
  readonly name: "adamw";
  /** Peak learning rate. */
  readonly lr: number;
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
  /** Which parameters decay: those with two dims, or every one. */
  readonly decay: "matrices" | "all";
  /** Largest global gradient norm; 0 turns clipping off. */
  readonly clip: number;
  readonly schedule: "constant" | "linear" | "cosine";
  /** Updates of linear warm-up. */
  readonly warmup: number;
  /** Learning rate at the end of the schedule over the peak. */
  readonly minRatio: number;
}

export type Head = "lm" | "value" | "reward";

/** Weights that follow those of a trained model: after each of its train calls, these = eta · of + (1 − eta) · these. */
export interface Ema {
  readonly of: string;
  readonly eta: number;
}

/** Matrices that an adapter can change: the linear layers of a transformer block, under the last part of their names. */
export const ADAPTABLE = [
  "q_proj",
  "k_proj",
  "v_proj",
  "o_proj",
  "gate_proj",
  "up_proj",
  "down_proj",
] as const;
export type Adaptable = typeof ADAPTABLE[number];

/** Low-rank adaptation (Hu et al. 2021, eq. 3): y = x·Wᵀ + (alpha / rank) · (x·Aᵀ)·Bᵀ, where W stays as it is. */
export interface Lora {
  readonly rank: number;
  readonly alpha: number;
  readonly targets: readonly Adaptable[];
  /** Folder with an adapter that training starts from, in the format of PEFT. */
  readonly from?: string;
}

export interface ModelSpec {
  readonly head: Head;
  /** Folder with config.json, or a model of the hub. */
  readonly checkpoint: string;
  /** Absent for a frozen model. */
  readonly optimizer: AdamW | null;
  /** What is trained instead of the checkpoint's own weights. */
  readonly lora?: Lora;
  /** Of a model that is not trained itself. */
  readonly ema?: Ema;
}

export interface Sampling {
  readonly maxNewTokens: number;
  /** 0 is greedy. */
  readonly temperature: number;
  /** 0 is off. */
  readonly topK: number;
  /** 1 is off. */
  readonly topP: number;
  /** Responses per prompt: the group size. */
  readonly samples: number;
  /** Stop token ids beside those of the model's generation config and chat template. */
  readonly stop: readonly number[];
  readonly ignoreEos: boolean;
  /** How many versions behind the newest weights a sample may be. */
  readonly maxLag: number;
  /**
   * The tokens that topK and topP kept are stored with every action, and log-probabilities and entropies of every model that
   * reads these samples are those of the softmax over them.
   */
  readonly keepSampledMask?: true;
}

/** Most kept tokens of an action that can be stored: one tile of a softmax. */
export const MOST_KEPT = 1024;

/** A call's own port name → the field bound to it. `.as()` changes `writes`, `{ from }` changes `reads`. */
export type Ports = Readonly<Record<string, string>>;

interface Node {
  /** Unique: "actor.generate", "ref.infer#2". */
  readonly id: string;
  readonly reads: Ports;
  readonly writes: Ports;
  /** Where the script made this call, "ppo.ts:14". For messages only, not part of the digest. */
  readonly site?: string;
}

/** Ports: reads prompt; writes tokens, response, logprobs, length, finished (those that are bound). */
export interface GenerateCall extends Node {
  readonly kind: "generate";
  readonly model: string;
  readonly sampling: Sampling;
  /** Names of the tools that a turn may call; the functions stay in the workflow. */
  readonly tools?: readonly string[];
  /** Turns of one sample at most, where it has tools. */
  readonly maxTurns?: number;
}
/** Ports: reads tokens; writes logprobs and entropy (lm), values and finalValues (value), or rewards (reward), where bound. */
export interface InferCall extends Node {
  readonly kind: "infer";
  readonly model: string;
}
/** Ports: reads tokens and the fields that inputs of `loss` name; writes nothing. */
export interface TrainCall extends Node {
  readonly kind: "train";
  readonly model: string;
  readonly loss: Expr;
  readonly minibatches: number;
  readonly epochs: number;
  /** Index into `loss.outputs` names: updates stop for this step once this metric is non-zero. */
  readonly stopWhen?: string;
}
/**
 * Arithmetic on fields: advantages, penalties, whitening. Reads the fields that inputs of `expr` name and, when it works per
 * token, port `tokens`: the token field that its per-token values belong to.
 */
export interface ComputeCall extends Node {
  readonly kind: "compute";
  readonly expr: Expr;
  /** State names written: state name → output of `expr` ("state.NAME"). Every call of a step reads the value that the step began with. */
  readonly states: Ports;
}
/** TypeScript over text or numbers: the function itself stays in the workflow. */
export interface ScoreCall extends Node {
  readonly kind: "score";
}
/**
 * Keeps some samples of each prompt: from here on the step has no others. Reads port `by`, writes nothing. Numbers keep the
 * `keep` largest, in the order in which they were sampled; `bestAndWorst` makes a preference pair of the largest and the
 * smallest.
 */
export interface SelectCall extends Node {
  readonly kind: "select";
  readonly keep: number | "bestAndWorst";
}
/**
 * Replaces the prompts of which some sample has a 0 in port `until` by others, for which all earlier calls of the graph run
 * again, in `maxRounds` rounds at most (the first included). Writes nothing.
 */
export interface RefillCall extends Node {
  readonly kind: "refill";
  readonly maxRounds: number;
}
export type ModelFunctionCall = GenerateCall | InferCall | TrainCall;
/** Calls of the host, without a program. */
export type HostCall = ScoreCall | SelectCall | RefillCall;
export type Call = ModelFunctionCall | ComputeCall | HostCall;

/** Whether a call runs on the host and on no device. */
export const isHostCall = (call: Call): call is HostCall =>
  call.kind === "score" || call.kind === "select" || call.kind === "refill";

/** What a workflow does each step. `ir/check.ts` says what makes one valid. */
export interface CallGraph {
  readonly version: 1;
  readonly name: string;
  readonly models: Readonly<Record<string, ModelSpec>>;
  readonly source: SourceSpec;
  /** The type of every field: data set fields first, then those that calls write. */
  readonly fields: Schema;
  /** Topologically ordered. Edges are field names. */
  readonly calls: readonly Call[];
  /** Batch scalars that live from step to step: name → initial value. */
  readonly states: Readonly<Record<string, number>>;
}

/** What a data set gives each step. Pairs hold two sequences each. */
export interface SourceSpec {
  readonly kind: "prompts" | "conversations" | "pairs";
  readonly path: string;
  /** Prompts, conversations or pairs per step. */
  readonly batch: number;
  readonly fields: Schema;
  readonly shuffle: boolean;
  /** Share of the data set held out for `evaluate`. */
  readonly heldOut: number;
  /** Baton's name of a column, or a declared field's → the column of the file, `a.b` for b inside a. */
  readonly columns?: Readonly<Record<string, string>>;
  /** Texts are turns of a conversation, written with the model's chat template. */
  readonly chat?: true;
  /** Most tokens of a prompt or a whole sequence, where that is less than the context. */
  readonly maxTokens?: number;
  /** What is longer is left out, or cut behind its first tokens; it is refused otherwise. */
  readonly longRows?: "skip" | "truncate";
}
