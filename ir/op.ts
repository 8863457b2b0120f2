/** The vocabulary of device programs: dims, values, places, operations. Imports nothing. */

/**
 * Dims that are known only when a program is submitted. Everything else is a constant. In a decode program `tokens` is
 * the number of live rows; in a prefill program `actions` is the number of rows that are sampled from. `shard` is the rows
 * of `tokens` that this rank of the tensor-parallel group owns, see {@link ownRows}.
 */
export const SYMBOLS = ["one", "tokens", "actions", "sequences", "groups", "pairs", "shard"] as const;
export type Symbol_ = typeof SYMBOLS[number];

/**
 * The groups that collective operations meet in; an operation has the position of its axis in this list as attribute.
 * tp: ranks that share a layer's matrices. kv: ranks of a tp group that hold the same key and value heads. tied: the first and
 * the last stage, which hold a tied embedding both. dp: ranks with the same piece of a model. world: all ranks of a mesh.
 */
export const AXES = ["tp", "kv", "tied", "dp", "world"] as const;
export type Axis = typeof AXES[number];

/** `times × symbol`. A plain number is a constant dim. */
export interface Dim {
  readonly symbol: Symbol_;
  readonly times: number;
}
/** A row count times constant widths: only the first dim of a shape may be symbolic. */
export type Shape = readonly [Dim | number, ...number[]] | readonly [];
/** What an element of memory is; programs name a type by its position in this list. bf16 is the upper half of an f32. */
export const DTYPES = ["f32", "i32", "bf16"] as const;
export type DType = typeof DTYPES[number];
/** What numbers that are computed with are stored in; every kernel computes in f32 whatever its operands are. */
export type FloatType = Exclude<DType, "i32">;
/** Bytes of an element. */
export const BYTES: Readonly<Record<DType, number>> = { f32: 4, i32: 4, bf16: 2 };

/** Memory that a program's operands point into; bound when a program is submitted. Only the arena is planned. */
export const SEGMENTS = [
  "arena",
  "params",
  "constants",
  "moments",
  "grads",
  "inputs",
  "outputs",
  "saved",
  "kv",
  "state",
] as const;
export type Segment = typeof SEGMENTS[number];
export interface Place {
  readonly segment: Segment;
  /** Bytes, a multiple of 64. */
  readonly offset: number;
}

/** Values are in static single assignment form; an operation that continues a sum takes the prior value and makes a new one. */
export interface Value {
  readonly id: number;
  readonly name: string;
  readonly shape: Shape;
  readonly dtype: DType;
  /** Set when the value lives at a fixed place (a parameter, an input, an output). */
  readonly place?: Place;
}

/** A number for a kernel: a constant, or a size that scales with a symbol. */
export type Attr = number | Dim;

export interface Op {
  readonly kind: OpKind;
  readonly ins: readonly Value[];
  readonly outs: readonly Value[];
  readonly attrs: readonly Attr[];
}

/**
 * Opcodes; `cuda/common/opcodes.h` has the same numbers. Operands are listed `ins → outs`, then attributes. `n:` marks an
 * attribute that is a size (may be symbolic). `[prior]` is present exactly when the flag attribute is 1,
 * `[z]` when `step` is not 0.
 * A matrix weight of N outputs and K inputs, and its gradient, is stored in *panels* where the attribute `panels` is 1:
 * [ceil(N/16)][K][16], zero past N; element (n, k) is at (n >> 4)·16K + 16k + (n & 15). Otherwise it is row-major, as everything
 * else is. `ends` are segment ends: segment i is
 * [i ? ends[i-1] : 0, ends[i]).
 */
export const OPCODE = {
  /**
   * ids, w → x · T: V H panels first total. x[t] = w[ids[t] − first]; zero for ids of other shards of the `total` rows.
   */
  embedding: 1,
  /** ids, dx, [prior] → dw · T: V H panels flag first total. Tokens in order; ids of other shards are left out. */
  embeddingGrad: 2,
  /** x[M,K], w, [bias[N]] → y[M,N] · M: N K panels biasFlag. y = x·wᵀ, and the bias added to every sum. */
  matmul: 3,
  /** dy[M,N], w, [prior] → dx[M,K] · M: N K flag panels. */
  matmulDx: 4,
  /** dy[M,N], x[M,K], [prior] → dw · M: N K flag panels. */
  matmulDw: 5,
  /** x[M,N], b[N] → y · M: N. */
  addBias: 6,
  /** dy[M,N], [prior] → db[N] · M: N flag. Rows in order. */
  columnSum: 7,
  /** x[R,H], w[H] → y, rstd[R] · R: H eps. */
  rmsnorm: 8,
  /** dy, x, w, rstd, [prior] → dx · R: H flag. */
  rmsnormDx: 9,
  /** dy, x, rstd, [prior] → dw[H] · R: H flag. Rows in order. */
  rmsnormDw: 10,
  /** x[T,heads·D], positions[T] i32, table[P,D] → y · T: heads D direction. Table row: D/2 cosines, D/2 sines; direction −1 is the inverse. */
  rope: 11,
  /** q[T,heads·D], k[T,kv·D], v[T,kv·D], ends[S] i32 → o, lse[T,heads] · T: S: heads kv D window scale. Causal; window 0 is none. */
  attention: 12,
  /** dO, q, k, v, o, lse, ends → dq, dk, dv · as attention. */
  attentionGrad: 13,
  /** gate, up → y · n:. silu(gate)·up. */
  swiglu: 14,
  /** dy, gate, up → dgate, dup · n:. */
  swigluGrad: 15,
  /**
   * x[A,H], w[V,H], targets[A] i32, invT[1] → logprob[A], lse[A], [entropy[A]], [z[A,step]] · A: H V entropyFlag step panels. Of
   * softmax(z·invT), z = x·wᵀ, which are kept in f32 where `step` is not 0, `step` elements from row to row ({@link logitsStep}).
   */
  linearLogprob: 16,
  /**
   * dlogprob[A], x, w, targets, invT, lse, [dentropy[A], entropy[A]], [z], [prior] → dx[A,H], dw · A: H V flag entropyFlag first total
   * step panels. w is rows first … first+V of `total`. The logits are made again where they were not kept.
   */
  linearLogprobGrad: 17,
  /** x[T,H], rows[A] i32 → y[A,H] · A: H T:. Copies elements of any type. */
  gatherRows: 18,
  /** dy[A,H], rows[A], [prior] → dx[T,H] · A: H T: flag. Adds in order. */
  scatterRows: 19,
  /** ins → outs · n: inputs instructions outputs, stride per input (0 broadcasts a scalar), [op a b c] per instruction, output registers. See POINTWISE. */
  pointwise: 20,
  /** x[N], ends[M] i32 → y[M] · N: M:. In order. */
  segmentSum: 21,
  /** y[M], ends → x[N] · N: M:. */
  segmentSpread: 22,
  /** x[N], ends → y[M] · N: M:. The last element; 0 for an empty segment. */
  segmentLast: 23,
  /** y[M], ends → x[N] · N: M:. Zero but at the last element. */
  segmentAtEnd: 24,
  /** ends → y[M] f32 · M:. */
  segmentLength: 25,
  /** x[N], [prior[1]] → y[1] · N: flag. One chain in order. */
  total: 26,
  /** x[stride·P] → y[P] · P: stride phase. y[i] = x[stride·i + phase]. */
  strideGather: 27,
  /** y[P] → x[stride·P] · P: stride phase. Zero elsewhere. */
  strideScatter: 28,
  /** rewards[A], values[A], finals[S], ends[S] → advantages[A] · A: S: gamma lambda. Schulman et al. 2016, eq. 16; finals = value after the last action. */
  gae: 29,
  /** g1 … gn → sums[count] · count, then (elements, index) of every gradient. Sums of squares as doubles, in fixed order, each at its index; zero elsewhere. */
  squareSums: 30,
  /**
   * p, g, m, v, hyper[3], norm[1] → p, m, v (same places), [rounded] · n beta1 beta2 eps decay clip roundedFlag. hyper = lr, 1−β1ᵗ,
   * 1−β2ᵗ. Scales g by min(1, clip/(norm+1e-6)) when clip > 0; does nothing when norm is not finite. `rounded` is p in bf16: what
   * programs compute with where p is a master copy.
   */
  adamw: 31,
  /** x → y · n:. Of one type. */
  copy: 32,
  /** → y · n: value. */
  fill: 33,
  /** k[T,kv·D], v[T,kv·D], slots[T] i32, positions[T] i32, pageTable[maxSlots,maxPages] i32, finished[maxSlots] i32 → kv · T: kv D layer pages maxPages. Writes no row of a finished slot. Page p of a layer: K as [kv][D][16], then V as [kv][16][D]; layers are outermost. */
  kvWrite: 34,
  /** q[T,heads·D], kv, slots[T], positions[T], pageTable → o · T: heads kv D window scale layer pages maxPages. Keys 0 … position, the bits of `attention`. */
  pagedAttention: 35,
  /** logits[R,V], slots[R], token, position, finished, count, sampler, stops, outTokens, outLogprobs (state, updated in place) → nothing · R: V temperature topK topP stops maxNew. See `cuda/cpu/kernels/sample.cpp`. */
  sample: 36,
  /** kv, from[n] i32, to[n] i32 → kv · n: kv D layers pages. Copies whole pages in every layer. */
  copyPages: 37,
  /**
   * x[A,H], w[V,H] (rows first … first+V of `total`), targets, invT → logprob[A], lse[A], [entropy[A]], [z[A,step]],
   * work[A,3] · A: H V entropyFlag first total axis step panels. `linearLogprob` whose vocabulary is split over the axis; every rank gets the result.
   */
  shardLogprob: 38,
  /** x → y (may have the place of x) · n: axis. Sum over the ranks of the axis, in their order. */
  allReduce: 39,
  /** x[own,H] → y[T,H] · T: H axis. x may be its own rows of y. See {@link ownRows}. */
  allGatherRows: 40,
  /** x[T,H] → y[own,H] · T: H axis. Sums over ranks in their order; y may be its own rows of x. */
  reduceScatterRows: 41,
  /** x[T,H] → y[own,H] · T: H axis. A copy of the rank's own rows; no communication. */
  ownRows: 42,
  /** x[R,to−from] → y[R,W] · R: W from to axis. Every rank brings its columns from … to. */
  allGatherColumns: 43,
  /** x[n] → y[n] (may have the place of x) · n axis. Doubles (two 4-byte elements each), summed over ranks in their order. */
  sumDoubles: 44,
  /** sums[n] → norm[1] · n. Square root of the sum of n doubles in order. */
  norm: 45,
  /**
   * As `sample`, and outKept[maxSlots, maxNew, topK] i32 behind it: the ids that topK and topP kept for every token, ascending, −1
   * behind the last. The stored log-probability is that of the softmax over them.
   */
  sampleKept: 46,
  /** x[A,H], w[V,H] (rows first … first+V of `total`), kept[A,K] i32 → z[A,K] · A: H V K first total panels. z = x·w[id]; 0 for ids of other shards, and for −1, behind which no id is looked at. */
  keptLogits: 47,
  /** dz[A,K], w, kept → dx[A,H] · A: H V K first total panels. */
  keptLogitsDx: 48,
  /** dz[A,K], x[A,H], kept, [prior] → dw · A: H V K flag first total panels. Rows in order. */
  keptLogitsDw: 49,
  /** z[A,K], kept[A,K], targets[A], invT[1] → logprob[A], lse[A], [entropy[A]] · A: K entropyFlag. Of softmax(z·invT) over the ids of each row, of which the target is one. */
  keptLogprob: 50,
  /** dlogprob[A], z, kept, targets, invT, lse, [dentropy[A], entropy[A]] → dz[A,K] · A: K entropyFlag. */
  keptLogprobGrad: 51,
  /** `linearLogprobGrad` of x alone, where w is frozen: dlogprob[A], x, w, targets, invT, lse, [dentropy[A], entropy[A]], [z] → dx[A,H] · A: H V entropyFlag first total step panels. */
  linearLogprobDx: 52,
  /**
   * x[M,K], w1, w2, w3, [bias1, bias2, bias3] → y1[M,N1], y2[M,N2], y3[M,N3] · M: N1 N2 N3 K panels biasFlag. Three `matmul`s of
   * the same rows.
   */
  matmul3: 53,
  /** x[M,K], w1, w2, [bias1, bias2] → y1[M,N1], y2[M,N2] · M: N1 N2 K panels biasFlag. Two of them. */
  matmul2: 54,
  /**
   * x[M,K], wg, wu → y[M,N] · M: N K panels. `swiglu` of the gate x·wgᵀ and x·wuᵀ, both rounded as if they were stored in between.
   */
  gatedMatmul: 55,
  /** x[R,H], r[R,H], w[H] → s, y, rstd[R] · R: H eps. s = x + r, and `rmsnorm` of s as it is stored. */
  addRmsnorm: 59,
  /**
   * q[T,heads·D], k[T,kv·D], positions[T] i32, table[P,D], [qw[D], kw[D]] → qr, kr, [qrstd[T,heads], krstd[T,kv]] · T: heads kv D
   * direction eps norm. `rope` of both; where `norm` is 1 after `rmsnorm` of every head, rounded as if it were stored in between.
   */
  ropes: 60,
  /**
   * q, k, v[T,kv·D], positions[T], table, slots[T], pageTable, finished, [qw, kw] → qr, [kr], kv · T: heads kv D layer pages maxPages
   * eps norm keep. `ropes` forward, then `kvWrite` of the rotated keys; kr is there where `keep` is 1.
   */
  ropeKvWrite: 61,
  /** dy[R,H], x, w[H], rstd[R], [prior], [prior of dw] → dx, dw[H] · R: H flag dwFlag. `rmsnormDx` and `rmsnormDw`, which read the same. */
  rmsnormGrad: 62,
  /**
   * x[R,H] → y[R,H] (may have the place of x) · R H from total axis. x are rows from … from+R of `total`; those of them that the rank
   * owns ({@link ownRows}) become the sums over ranks in their order, the others are as in x.
   */
  reduceOwnRows: 63,
} as const;
export type OpKind = keyof typeof OPCODE;

/**
 * Register instructions of a pointwise operation, [op, a, b, c]: registers 0 … inputs−1 are the inputs, instruction i
 * writes register inputs+i. `constant` keeps its value in `a`. lt and ge give 1 or 0; where gives b if a ≠ 0, else c.
 */
export const POINTWISE = {
  constant: 0,
  add: 1,
  sub: 2,
  mul: 3,
  div: 4,
  min: 5,
  max: 6,
  neg: 7,
  exp: 8,
  log: 9,
  sigmoid: 10,
  lt: 11,
  ge: 12,
  where: 13,
  abs: 14,
  sqrt: 15,
  logSigmoid: 16,
  sign: 17,
} as const;
export type PointwiseKind = keyof typeof POINTWISE;

/** Columns of the `sampler` state array, i32 [maxSlots, 8]: Philox key and counter words, and the token budget. */
export const SAMPLER = { keyLow: 0, keyHigh: 1, index: 2, sample: 3, limit: 4 } as const;

/** Tokens in one KV page; also the width of a weight panel and the number of virtual lanes. */
export const PAGE = 16;
export const PANEL = 16;

/** Rows of `rows` that rank `rank` of `ranks` owns: every rank's share, uneven by at most one. */
export const ownRows = (rows: number, rank: number, ranks: number): readonly [from: number, to: number] => [
  Math.floor(rows * rank / ranks),
  Math.floor(rows * (rank + 1) / ranks),
];

export const dim = (symbol: Symbol_, times = 1): Dim => ({ symbol, times });
/** Largest value of every symbol: what buffers are sized for. */
export type Maxima = Readonly<Record<Symbol_, number>>;
export const extent = (d: Attr, at: Maxima): number => typeof d === "number" ? d : d.times * at[d.symbol];
export const elements = (shape: Shape, at: Maxima): number =>
  shape.reduce<number>((n, d) => n * extent(d, at), 1);
/** Every operand starts on a cache line. */
export const align = (bytes: number): number => Math.ceil(bytes / 64) * 64;
/** Elements of an [N, K] weight in panels. */
export const panelElements = (n: number, k: number): number => Math.ceil(n / PANEL) * PANEL * k;
/** Elements from row to row of logits that are kept: whole lines, an odd number of them, so that rows spread over a cache's sets. */
export const logitsStep = (vocabulary: number): number => (Math.ceil(vocabulary / PANEL) | 1) * PANEL;
