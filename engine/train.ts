/** Runs a train call: mini-batches, each one optimizer update of every rank. */
import type { AdamW } from "../ir/graph.ts";
import type { Batch } from "./batch.ts";
import type { Binding } from "./binding.ts";
import type { BoundCall } from "./bound.ts";
import { Gates } from "./gates.ts";
import { writeFields } from "./infer.ts";
import { settled } from "./lanes.ts";
import { Accumulation } from "./micro_batches.ts";
import { share } from "./partition.ts";
import { settleAll } from "./settle.ts";
import type { TrainRequest } from "./train_request.ts";
import { permutation, type StreamKey } from "./random.ts";

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

export async function train(bound: BoundCall, request: TrainRequest): Promise<TrainResult> {
  const { call, batch, optimizer } = request, column = batch.tokensOf(request.tokens), means = new Means();
  const replicas = Array.from({ length: bound.strategy.dp }, (_, dp) => new Accumulation(bound, dp, request));
  const fold = bound.all("fold")[0]!;
  let updates = request.updates, parity = NaN, stopped = false;
  for (let epoch = 0; epoch < call.epochs && !stopped; epoch++) {
    for (const [m, samples] of miniBatches(batch, call.minibatches, request.key(epoch)).entries()) {
      const counts = denominators(
        call.id,
        column.actions,
        samples,
        (port) => fold.has(port) || replicas[0]!.reads(port),
      );
      const parts = share(samples, {
        parts: replicas.length,
        together: request.together,
        weight: (s) => column.ids[s]!.length,
      });
      const compare = epoch === 0 && m === 0;
      // A replica without samples has no backward pass in which it could meet the others.
      const gates = bound.has("closing", 0) && parts.every((part) => part.length > 0)
        ? new Gates(replicas.length, () => bound.engine.devices.cancel(true))
        : null;
      const done = new Progress(replicas.length, request.onMicroBatch);
      const worst = await settleAll(
        replicas.map((replica, dp) =>
          replica.run(parts[dp]!, counts, { compare, gates, onMicroBatch: done.of(dp) })
            .catch((error) => {
              gates?.fail(error);
              throw error;
            })
        ),
      );
      for (const w of worst) if (!Number.isNaN(w)) parity = Number.isNaN(parity) ? w : Math.max(parity, w);
      const metrics = await foldSums(fold, replicas, counts, request);
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
      const hyper = Float32Array.of(lr, 1 - b1 ** updates, 1 - b2 ** updates),
        programs = bound.all(gates ? "summedUpdate" : "update");
      for (const update of programs) update.write("inputs/hyper", hyper);
      request.onUpdate?.(true);
      await settled(programs.map((update) => update.submit({})));
      const norm = programs[0]!.read("outputs/norm")[0]!;
      if (!Number.isFinite(norm)) {
        if (updates === request.updates + 1) request.onUpdate?.(false);
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

/** Micro-batches done over all data-parallel replicas. */
class Progress {
  readonly #done: number[];
  readonly #of: number[];

  constructor(replicas: number, readonly report: ((done: number, of: number) => void) | undefined) {
    this.#done = new Array(replicas).fill(0);
    this.#of = new Array(replicas).fill(0);
  }

  of(dp: number): (done: number, of: number) => void {
    return (done, of) => {
      this.#done[dp] = done;
      this.#of[dp] = of;
      const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
      this.report?.(sum(this.#done), sum(this.#of));
    };
  }
}

/** Loss and metrics of a mini-batch, from the partial sums of all data-parallel replicas, added in the order of their ranks. */
async function foldSums(
  fold: Binding,
  replicas: readonly Accumulation[],
  counts: Readonly<Record<string, number>>,
  { batch, states }: TrainRequest,
): Promise<Record<string, number> & { loss: number }> {
  const ports = Object.keys(fold.program.ports);
  for (const path of ports.filter((p) => p.startsWith("inputs/sum."))) {
    const sums = replicas.map((replica) => replica.sum(path.replace("inputs/", "outputs/")));
    fold.write(path, Float32Array.of(sums.reduce((a, b) => Math.fround(a + b))));
  }
  for (const [port, count] of Object.entries(counts)) fold.offer(port, Float32Array.of(count));
  writeFields(fold, ports, batch, [], states, {});
  await fold.run({});
  const metrics: Record<string, number> = {};
  for (const path of ports.filter((p) => p.startsWith("outputs/metric."))) {
    metrics[path.slice("outputs/metric.".length)] = fold.read(path)[0]!;
  }
  return { ...metrics, loss: fold.read("outputs/loss")[0]! };
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
