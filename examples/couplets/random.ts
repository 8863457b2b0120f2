/** Random whole numbers for the generators: a stream per purpose and index, so that samples do not depend on each other. */
import { philox, streamKey } from "../../engine/random.ts";

/** Draws a whole number from 0 to `below` − 1, all equally likely. */
export type Random = (below: number) => number;

/** The stream of sample `index` of one purpose under a seed. */
export function random(seed: number, purpose: string, index: number): Random {
  const key = streamKey(seed, purpose, index);
  const words = new Uint32Array(4);
  let drawn = 0;
  return (below) => {
    words.fill(0);
    words[0] = drawn++;
    philox(words, ...key);
    return Math.floor(words[0]! / 2 ** 32 * below);
  };
}

/** One of the choices, all equally likely. */
export function pick<T>(draw: Random, choices: readonly T[]): T {
  if (choices.length === 0) throw new RangeError("Cannot pick from an empty list: give at least one choice");
  return choices[draw(choices.length)]!;
}
