/** The order in which the stages of a pipeline work on micro-batches: one forward, one backward (Narayanan et al. 2021, §2.2). */

/** A stage's part of a micro-batch; on the last stage "backward" is the whole of it. */
export interface Work {
  readonly stage: number;
  readonly pass: "forward" | "backward";
  readonly micro: number;
}

/** Micro-batches of which a stage keeps what the backward pass needs, at the same time. */
export const inFlight = (stages: number, stage: number, micros: number): number =>
  Math.max(1, Math.min(micros, stages - stage));

/** What one stage does, in order: forwards until the pipeline is full, then one backward for each forward, then the rest. */
function stageOrder(stages: number, stage: number, micros: number): Work[] {
  if (stage === stages - 1) {
    return Array.from({ length: micros }, (_, micro) => ({ stage, pass: "backward", micro }));
  }
  const order: Work[] = [], ahead = Math.min(micros, stages - 1 - stage);
  for (let micro = 0; micro < micros + ahead; micro++) {
    if (micro < micros) order.push({ stage, pass: "forward", micro });
    if (micro >= ahead) order.push({ stage, pass: "backward", micro: micro - ahead });
  }
  return order;
}

/**
 * The work of all stages in one order in which everything comes behind what it needs: the forward pass of a stage behind that
 * of the stage before, the backward pass behind that of the stage after it; and what reuses memory behind the last reader: a
 * stage's gradient for the stage before, which has read the one of {@link inFlight} micro-batches earlier.
 *
 * @example
 * ```ts
 * import { oneForwardOneBackward } from "./pipeline.ts";
 *
 * const order = oneForwardOneBackward(2, 3).map((w) => `${w.pass[0]}${w.micro}@${w.stage}`);
 * console.log(order.join(" ")); // f0@0 b0@1 f1@0 b0@0 b1@1 f2@0 b1@0 b2@1 b2@0
 * ```
 */
export function oneForwardOneBackward(stages: number, micros: number): Work[] {
  const queues = Array.from({ length: stages }, (_, stage) => stageOrder(stages, stage, micros));
  const done = new Set<string>(), order: Work[] = [];
  const name = (stage: number, pass: Work["pass"], micro: number) => `${stage} ${pass} ${micro}`;
  const ready = ({ stage, pass, micro }: Work): boolean => {
    const forward = stage === 0 || done.has(name(stage - 1, "forward", micro));
    if (pass === "forward") return forward;
    const earlier = micro - inFlight(stages, stage, micros);
    const read = stage === 0 || earlier < 0 || done.has(name(stage - 1, "backward", earlier));
    return read && (stage === stages - 1 ? forward : done.has(name(stage + 1, "backward", micro)));
  };
  while (queues.some((queue) => queue.length)) {
    for (const queue of queues) {
      const next = queue[0];
      if (!next || !ready(next)) continue;
      queue.shift();
      order.push(next);
      done.add(name(next.stage, next.pass, next.micro));
    }
  }
  return order;
}
