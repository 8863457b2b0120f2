/** Runs a train call: mini-batches (each one optimizer update) cut into micro-batches that never change the result. */
import type { AdamW, TrainCall } from "../ir/graph.ts";
import { type Batch, cutMicroBatches, pack } from "./batch.ts";
import type { Binding } from "./binding.ts";
import { groupEnds, writeFields, writePacked } from "./infer.ts";
import { permutation, type StreamKey } from "./random.ts";

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
}

/** What a train call says about itself, by name. */
export type TrainMetrics = Readonly<Record<string, number>>;

export interface TrainResult {
  readonly updates: number;
  /**
   * Means over mini-batches: loss and the loss's own metrics, those of the mini-batch that stopped the call too; means over
   * updates: gradientNorm, learningRate. Parity (max) from the first mini-batch. Where a call can stop early: updates made.
   */
  readonly metrics: TrainMetrics;
}

export async function train(program: Binding, update: Binding, request: TrainRequest): Promise<TrainResult> {
  const { call, batch, optimizer } = request, column = batch.tokensOf(request.tokens);
  const lengths = column.ids.map((ids) => ids.length), means = new Means();
  const { tokens: maxTokens, sequences: maxSequences } = program.program.maxima;
  let updates = request.updates, parity = NaN, stopped = false;
  for (let epoch = 0; epoch < call.epochs && !stopped; epoch++) {
    for (const [m, samples] of miniBatches(batch, call.minibatches, request.key(epoch)).entries()) {
      const runs = cutMicroBatches(lengths, samples, { maxTokens, maxSequences, together: request.together });
      program.zero("grads");
      program.zero("outputs");
      const counts = denominators(call.id, column.actions, samples, (port) => program.has(port));
      for (const [port, count] of Object.entries(counts)) program.offer(port, Float32Array.of(count));
      for (const [i, run] of runs.entries()) {
        const packed = pack(column, run);
        const live = {
          ...packed,
          groups: Math.ceil(run.length / batch.group),
          pairs: Math.floor(run.length / 2),
        };
        writePacked(program, packed, column.temperature);
        program.offer("inputs/groupEnds", groupEnds(run.length, Math.min(batch.group, run.length)));
        writeFields(program, batch, run, request.states, live);
        await program.run(live);
        if (epoch === 0 && m === 0 && request.sampledLogprobs) {
          const now = program.read("outputs/logprobs", live), then = batch.flat(request.sampledLogprobs, run);
          const worst = now.reduce((w, x, j) => Math.max(w, Math.abs(x - then[j]!)), 0);
          parity = Number.isNaN(parity) ? worst : Math.max(parity, worst);
        }
        request.onMicroBatch?.(i + 1, runs.length);
      }
      const metrics = readMetrics(program);
      if (!Number.isFinite(metrics.loss)) {
        throw new Error(
          `Cannot train in ${call.id}: the loss of update ${
            updates + 1
          } is ${metrics.loss}, the update was not made; ` +
            `look at rewards and learning rate, checkpoints are as they were`,
        );
      }
      means.add(metrics);
      stopped = call.stopWhen !== undefined && metrics[call.stopWhen] !== 0;
      if (stopped) break;
      const lr = learningRate(optimizer, updates, request.totalUpdates), [b1, b2] = optimizer.betas;
      updates++;
      update.write("inputs/hyper", Float32Array.of(lr, 1 - b1 ** updates, 1 - b2 ** updates));
      await update.run({});
      const norm = update.read("outputs/norm")[0]!;
      if (!Number.isFinite(norm)) {
        throw new Error(
          `Cannot train in ${call.id}: the gradient norm of update ${updates} is ${norm}, the update was not made; ` +
            `lower the learning rate, checkpoints are as they were`,
        );
      }
      means.add({ gradientNorm: norm, learningRate: lr });
    }
  }
  return {
    updates,
    metrics: {
      ...means.values(),
      ...(call.stopWhen !== undefined && { updates: updates - request.updates }),
      ...(!Number.isNaN(parity) && { parity }),
    },
  };
}

/** Mean of every name over the times that it was given. */
class Means {
  readonly #sums = new Map<string, { sum: number; count: number }>();

  add(metrics: Readonly<Record<string, number>>): void {
    for (const [name, value] of Object.entries(metrics)) {
      const { sum, count } = this.#sums.get(name) ?? { sum: 0, count: 0 };
      this.#sums.set(name, { sum: sum + value, count: count + 1 });
    }
  }

  values(): Record<string, number> {
    return Object.fromEntries([...this.#sums].map(([name, { sum, count }]) => [name, sum / count]));
  }
}

/** A seeded permutation of groups, cut into equal mini-batches: the same for every plan (DESIGN §3.3). */
export function miniBatches(batch: Batch, count: number, key: StreamKey): number[][] {
  const groups = batch.sequences / batch.group;
  if (count > groups) {
    throw new RangeError(
      `Cannot form ${count} mini-batches: the batch has ${groups} groups, lower minibatches or raise the batch`,
    );
  }
  const order = count === 1 ? Array.from({ length: groups }, (_, i) => i) : permutation(groups, key);
  return Array.from({ length: count }, (_, m) => {
    const part = order.slice(Math.floor(groups * m / count), Math.floor(groups * (m + 1) / count));
    return part.flatMap((g) => Array.from({ length: batch.group }, (_, i) => g * batch.group + i));
  });
}

/**
 * What the folds of a loss over a mini-batch divide by, by port.
 *
 * @param reads whether the program reads a port: a loss per sequence does not care how many actions there are
 * @throws Error when a denominator that is read is 0
 */
export function denominators(
  call: string,
  actions: readonly Int32Array[],
  samples: readonly number[],
  reads: (port: string) => boolean,
): Record<string, number> {
  const tokens = samples.reduce((n, s) => n + actions[s]!.length, 0);
  if (tokens === 0 && reads("inputs/count.token")) {
    throw new Error(
      `Cannot train in ${call}: none of the mini-batch's ${samples.length} samples has an action token and the loss is a mean ` +
        `over tokens, check the data and its responses`,
    );
  }
  return {
    "inputs/count.token": tokens,
    "inputs/count.sequence": samples.length,
    "inputs/count.pair": samples.length / 2,
  };
}

function readMetrics(program: Binding): Record<string, number> & { loss: number } {
  const metrics: Record<string, number> = {};
  for (const path of Object.keys(program.program.ports)) {
    if (path.startsWith("outputs/metric.")) {
      metrics[path.slice("outputs/metric.".length)] = program.read(path)[0]!;
    }
  }
  return { ...metrics, loss: program.read("outputs/loss")[0]! };
}

/** Learning rate of the update after `done` updates: linear warm-up, then constant, linear or cosine decay to minRatio. */
export function learningRate(o: AdamW, done: number, total: number): number {
  if (done < o.warmup) return o.lr * (done + 1) / o.warmup;
  const span = Math.max(1, total - o.warmup), progress = Math.min(1, (done - o.warmup) / span);
  if (o.schedule === "linear") return o.lr * (1 - (1 - o.minRatio) * progress);
  if (o.schedule === "cosine") {
    return o.lr * (o.minRatio + (1 - o.minRatio) * (1 + Math.cos(Math.PI * progress)) / 2);
  }
  return o.lr;
}
