/**
 * Counter-based randomness for the host: initial weights, shuffles, splits. The numbers are a pure function of (seed,
 * purpose, index), so they do not depend on the order in which they are drawn, on threads or on the plan.
 */

const ROUNDS = 10;
const MULTIPLY_0 = 0xd2511f53;
const MULTIPLY_1 = 0xcd9e8d57;
const WEYL_0 = 0x9e3779b9;
const WEYL_1 = 0xbb67ae85;

/** High 32 bits of the product of two unsigned 32-bit numbers; a JavaScript product alone would round it. */
const high = (a: number, b: number): number => {
  const al = a & 0xffff, ah = a >>> 16, bl = b & 0xffff, bh = b >>> 16;
  const low = al * bl, middle = ah * bl + (low >>> 16), other = al * bh + (middle & 0xffff);
  return (ah * bh + Math.floor(middle / 65536) + Math.floor(other / 65536)) >>> 0;
};

/**
 * Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): encrypts `counter` with `key` into
 * four independent 32-bit words, in place.
 */
export function philox(counter: Uint32Array, key0: number, key1: number): void {
  let c0 = counter[0]!, c1 = counter[1]!, c2 = counter[2]!, c3 = counter[3]!;
  for (let round = 0; round < ROUNDS; round++) {
    const high0 = high(MULTIPLY_0, c0), low0 = Math.imul(MULTIPLY_0, c0);
    const high1 = high(MULTIPLY_1, c2), low1 = Math.imul(MULTIPLY_1, c2);
    c0 = (high1 ^ c1 ^ key0) >>> 0;
    c1 = low1 >>> 0;
    c2 = (high0 ^ c3 ^ key1) >>> 0;
    c3 = low0 >>> 0;
    key0 = (key0 + WEYL_0) >>> 0;
    key1 = (key1 + WEYL_1) >>> 0;
  }
  counter[0] = c0;
  counter[1] = c1;
  counter[2] = c2;
  counter[3] = c3;
}

/** Names a stream of random numbers: a 64-bit Philox key. */
export type StreamKey = readonly [low: number, high: number];

/** FNV-1a over UTF-16 code units. */
const hash = (text: string, basis: number): number => {
  let h = basis;
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x01000193);
  return h >>> 0;
};

/** Low and high 32 bits of a whole number below 2^53. */
const split = (n: number): [number, number] => [n >>> 0, Math.floor(n / 2 ** 32)];

/**
 * The stream of one purpose under a seed, such as `streamKey(seed, step, call)` or `streamKey(seed, "shuffle", epoch)`.
 * Every part encrypts into the next key, so streams of different purposes share nothing.
 *
 * @param seed A whole number from 0 to 2^53 − 1; so is every part that is a number.
 */
export function streamKey(seed: number, ...purpose: readonly (number | string)[]): StreamKey {
  const words = new Uint32Array(4);
  let key: StreamKey = whole(seed);
  for (const part of purpose) {
    const isText = typeof part === "string";
    const [low, high] = isText ? [hash(part, 0x811c9dc5), hash(part, 0x2b992ddf)] : whole(part);
    words.set([low, high, isText ? 1 : 0, 0]);
    philox(words, ...key);
    key = [words[0]!, words[1]!];
  }
  return key;
}

function whole(n: number): [number, number] {
  if (!Number.isSafeInteger(n) || n < 0) {
    throw new RangeError(`Cannot key a random stream: ${n} is not a whole number from 0 to 2^53 - 1`);
  }
  return split(n);
}

/** Words of block `index` of a stream, into `words`. */
function block(key: StreamKey, index: number, words: Uint32Array): void {
  const [low, high] = split(index);
  words[0] = low;
  words[1] = high;
  words[2] = words[3] = 0;
  philox(words, ...key);
}

/** Fills `out` with N(0, std²) (Box & Muller 1958, in double, then rounded to float). */
export function normals(out: Float32Array, key: StreamKey, std: number): void {
  const words = new Uint32Array(4);
  for (let i = 0; i < out.length; i += 4) {
    block(key, i / 4, words);
    for (let pair = 0; pair < 4; pair += 2) {
      const radius = std * Math.sqrt(-2 * Math.log((words[pair]! + 0.5) / 2 ** 32));
      const angle = 2 * Math.PI * (words[pair + 1]! / 2 ** 32);
      // Writing past the end of a typed array does nothing, which is what the last block needs.
      out[i + pair] = radius * Math.cos(angle);
      out[i + pair + 1] = radius * Math.sin(angle);
    }
  }
}

/** A uniformly random order of 0 … n−1 (Fisher & Yates; Durstenfeld 1964). */
export function permutation(n: number, key: StreamKey): number[] {
  const order = Array.from({ length: n }, (_, i) => i);
  const words = new Uint32Array(4);
  for (let i = n - 1; i > 0; i--) {
    block(key, i, words);
    // 53 random bits: the bias of scaling them to i + 1 values is below 2^-20 for any data set that fits in memory.
    const uniform = ((words[0]! >>> 5) * 2 ** 26 + (words[1]! >>> 6)) / 2 ** 53;
    const j = Math.floor(uniform * (i + 1));
    const kept = order[i]!;
    order[i] = order[j]!;
    order[j] = kept;
  }
  return order;
}
