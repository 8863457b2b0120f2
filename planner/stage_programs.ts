/**
 * Programs of pipeline stages of any depth, from those of two and three layers: layers are alike, so that operations, bytes and
 * therefore seconds grow by the same amount with each. A model of 80 layers costs as much to plan as one of three.
 */
import { type Part, type Shard, shardOf } from "../compiler/layout.ts";
import type { ModelConfig } from "../compiler/models/config.ts";
import { canonical } from "../ir/digest.ts";
import type { Head } from "../ir/graph.ts";
import { type Segment, SEGMENTS } from "../ir/op.ts";
import type { Program } from "../ir/program.ts";
import { distinct, type Repeated } from "./price.ts";

/** What is kept of a program. */
export interface Compiled {
  readonly segmentBytes: Program["segmentBytes"];
  readonly work: readonly Repeated[];
}

/** A program of a stage as far as cost and memory go. */
export interface StageProgram {
  readonly segmentBytes: Program["segmentBytes"];
  /** Seconds at given dims, from what one program takes. */
  seconds(of: (program: Compiled) => number): number;
}

/** A stage: how many layers, and whether it has the embedding and the head. */
export interface Stage {
  readonly tp: number;
  readonly layers: number;
  readonly first: boolean;
  readonly last: boolean;
}

/** Programs of these many layers say what any more of them take. */
const FEW = 2, MORE = 3;

/** Compiles what is asked for once, and remembers. One for each model. */
export class StagePrograms {
  readonly #known = new Map<string, StageProgram>();
  readonly #compiled = new Map<string, Compiled>();
  readonly #shards = new Map<string, Shard>();
  readonly #alike: boolean;

  constructor(readonly config: ModelConfig, readonly head: Head) {
    this.#alike = config.windows.every((w) => w === config.windows[0]);
  }

  /**
   * @param what names the program among all that `compile` makes of a shard
   * @param compile of a shard; what it makes has to depend on the shard's layers in nothing but their number
   */
  of(stage: Stage, what: string, compile: (shard: Shard) => Program): StageProgram {
    const { tp, layers, first, last } = stage, key = `${what} ${tp} ${first} ${last}`;
    const known = this.#known.get(`${key} ${layers}`);
    if (known) return known;
    const program = (n: number): Compiled => {
      const name = `${key} ${n}`;
      let made = this.#compiled.get(name);
      if (!made) {
        const { segmentBytes, work } = compile(this.shard(stage, n));
        this.#compiled.set(name, made = { segmentBytes, work: distinct(work) });
      }
      return made;
    };
    const made = layers > MORE && this.#alike
      ? extrapolated(program(FEW), program(MORE), layers)
      : direct(program(layers));
    this.#known.set(`${key} ${layers}`, made);
    return made;
  }

  /** A shard of the last rank of a tensor-parallel group, which has the most of what cannot be shared out evenly. */
  shard({ tp, first, last }: Stage, layers: number): Shard {
    const key = `${tp} ${first} ${last} ${layers}`, known = this.#shards.get(key);
    if (known) return known;
    const before = first ? 0 : 1, stages = 1 + before + (last ? 0 : 1);
    const part: Part = { stages, stage: before, layers: { from: 0, to: layers }, tp, rank: tp - 1 };
    // A model of no more layers than these has fewer parameters to go through.
    const config = { ...this.config, layers, windows: this.config.windows.slice(0, layers) };
    const made = shardOf(config, this.head, part);
    this.#shards.set(key, made);
    return made;
  }
}

const direct = (program: Compiled): StageProgram => ({
  segmentBytes: program.segmentBytes,
  seconds: (of) => of(program),
});

function extrapolated(few: Compiled, more: Compiled, layers: number): StageProgram {
  const grown = (a: number, b: number) => a + (layers - FEW) * (b - a);
  const bytes = SEGMENTS.map((s): [Segment, number] => [s, grown(few.segmentBytes[s], more.segmentBytes[s])]);
  return {
    segmentBytes: Object.fromEntries(bytes) as Program["segmentBytes"],
    seconds: (of) => grown(of(few), of(more)),
  };
}

/** Names what makes two models' programs the same. */
export const modelKey = (config: ModelConfig, head: Head): string => canonical([config, head]);
