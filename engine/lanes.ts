/** A program of a call on the ranks of one data-parallel replica: tensor-parallel lanes side by side, stages one after the other. */
import type { Job, SegmentMove } from "../ffi/device.ts";
import { ownRows } from "../ir/op.ts";
import type { Binding, Live } from "./binding.ts";
import { settleAll } from "./settle.ts";

/** One stage: the bindings of its tensor-parallel ranks, in their order. All are given the same inputs. */
export class Lanes {
  /** @param onCopy hears of every copy that a lane receives */
  constructor(
    readonly bindings: readonly Binding[],
    readonly onCopy: (lane: number, job: Job, what: string, bytes: number) => void = () => {},
  ) {}

  has(port: string): boolean {
    return this.bindings[0]!.has(port);
  }
  write(name: string, data: Float32Array | Int32Array, live?: Live): void {
    for (const b of this.bindings) b.write(name, data, live);
  }
  offer(name: string, data: Float32Array | Int32Array): void {
    for (const b of this.bindings) b.offer(name, data);
  }

  /** Dims of one lane: its own rows of what is split along tokens. */
  live(live: Live, lane: number): Live {
    const ranks = this.bindings.length;
    if (ranks === 1) return live;
    const [from, to] = ownRows(live.tokens ?? 0, lane, ranks);
    return { ...live, shard: to - from };
  }

  /** Queues the program on every lane, behind `after` of that lane. */
  submit(live: Live, after: (lane: number) => readonly Job[]): Job[] {
    return this.bindings.map((b, lane) => b.submit(this.live(live, lane), after(lane)));
  }

  /** Queues copies of a port of another stage's lanes to a port of these, and returns the copies. */
  pull(to: string, from: Lanes, port: string, live: Live, after: readonly Job[]): Job[] {
    return this.bindings.map((b, lane) => {
      const source = from.bindings[lane]!, bytes = b.portBytes(to, this.live(live, lane));
      const move = oneMove(source, port, b, to, bytes);
      const job = b.device.copy(bytes ? [move] : [], { after: [after[lane]!], label: `${b.name}, ${to}` });
      this.onCopy(lane, job, to, bytes);
      return job;
    });
  }
}

/** A run of bytes from the beginning of one binding's port to another's. */
export function oneMove(from: Binding, port: string, to: Binding, into: string, bytes: number): SegmentMove {
  const source = from.port(port), target = to.port(into);
  return {
    from: from.segment(source.segment),
    to: to.segment(target.segment),
    fromOffset: source.offset,
    toOffset: target.offset,
    bytes,
    count: 1,
    fromStride: 0,
    toStride: 0,
  };
}

/** All stages of a program, bound for one micro-batch: every input goes to the stages that read it, results come from the last. */
export class Staged {
  constructor(readonly stages: readonly Lanes[]) {}

  get last(): Lanes {
    return this.stages.at(-1)!;
  }
  /** The program of the last stage's first lane, whose outputs are the call's. */
  get result(): Binding {
    return this.last.bindings[0]!;
  }
  has(port: string): boolean {
    return this.stages.some((stage) => stage.has(port));
  }

  /** Writes a port of those stages that have it; one at least must. */
  write(name: string, data: Float32Array | Int32Array, live?: Live): void {
    const owners = this.stages.filter((stage) => stage.has(name));
    if (!owners.length) this.result.port(name);
    for (const stage of owners) stage.write(name, data, live);
  }
  offer(name: string, data: Float32Array | Int32Array): void {
    for (const stage of this.stages) stage.offer(name, data);
  }
  read(name: string, live: Live = {}): Float32Array {
    return this.result.read(name, live);
  }
  readInts(name: string, count: number, from = 0): Int32Array {
    return this.result.readInts(name, count, from);
  }
  readFloats(name: string, count: number, from = 0): Float32Array {
    return this.result.readFloats(name, count, from);
  }

  /** Queues all stages, each behind the one before it; the jobs of every stage, by lane. */
  submit(live: Live): readonly (readonly Job[])[] {
    const all: Job[][] = [];
    this.stages.forEach((stage, s) => {
      if (s > 0 && stage.has("inputs/x")) {
        stage.pull("inputs/x", this.stages[s - 1]!, "outputs/y", live, all[s - 1]!);
      }
      all.push(stage.submit(live, () => []));
    });
    return all;
  }

  /** Queues all stages and resolves when all have run: of page copies the last stage says nothing about the others. */
  async run(live: Live): Promise<void> {
    await settled(this.submit(live).flat());
  }
}

/** Resolves when all jobs have ended well. */
export async function settled(jobs: readonly Job[]): Promise<void> {
  await settleAll(jobs.map((job) => job.done));
}
