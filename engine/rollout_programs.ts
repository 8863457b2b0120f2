/** The programs of one rollout on the stages and shards of a data-parallel replica. */
import type { Job, SegmentMove } from "../ffi/device.ts";
import type { Live } from "./binding.ts";
import type { BoundCall } from "./bound.ts";
import { oneMove, settled, type Staged } from "./lanes.ts";
import type { Runnable } from "./slots.ts";

/** What the last stage's sampling changes and the stages before it read in the next step. */
const CARRIED = ["state/token", "state/position", "state/finished"] as const;
/** Decode steps that are queued at once where no other rollout wants the device meanwhile. */
const AHEAD = 4;

export class RolloutPrograms {
  readonly prefill: Runnable;
  readonly decode: Runnable;
  readonly copy: Runnable;
  /** Decode steps of one round. Rollouts that share a pipeline take turns, step by step. */
  readonly inFlight: number;

  constructor(bound: BoundCall, dp: number, slot: number) {
    const sampled = new Sampled();
    this.prefill = new Stepped(bound.staged("prefill", dp, slot), sampled);
    this.decode = new Stepped(bound.staged("decode", dp, slot), sampled);
    this.copy = bound.staged("copy", dp, slot);
    this.inFlight = bound.strategy.pp > 1 ? 1 : AHEAD;
  }
}

/** The jobs that sampled last in a rollout, by lane. */
class Sampled {
  jobs: readonly Job[] = [];
}

/** A program that samples: before it runs, the stages before the last get what was sampled last. */
class Stepped implements Runnable {
  constructor(readonly staged: Staged, readonly sampled: Sampled) {}

  write(name: string, data: Float32Array | Int32Array, live?: Live): void {
    this.staged.write(name, data, live);
  }
  offer(name: string, data: Float32Array | Int32Array): void {
    this.staged.offer(name, data);
  }
  readInts(name: string, count: number, from?: number): Int32Array {
    return this.staged.readInts(name, count, from);
  }
  readFloats(name: string, count: number, from?: number): Float32Array {
    return this.staged.readFloats(name, count, from);
  }

  async run(live: Live): Promise<void> {
    const { stages, last } = this.staged, { jobs } = this.sampled;
    if (jobs.length) {
      for (const stage of stages.slice(0, -1)) {
        stage.bindings.forEach((b, lane) => {
          const from = last.bindings[lane]!;
          const moves = CARRIED.map((port): SegmentMove =>
            oneMove(from, port, b, port, from.port(port).bytes)
          );
          const copy = b.device.copy(moves, { after: [jobs[lane]!], label: `${b.name}, sampled tokens` });
          stage.onCopy(lane, copy, "sampled tokens", moves.reduce((n, m) => n + m.bytes, 0));
        });
      }
    }
    const submitted = this.staged.submit(live);
    this.sampled.jobs = submitted.at(-1)!;
    await settled(submitted.flat());
  }
}
