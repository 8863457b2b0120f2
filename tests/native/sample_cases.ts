/** Sampling from vocabularies of many tiles: where tokens of a row go into a list on GPUs, and where they cannot. */
import type { Case } from "./cases.ts";
import { generator, ints, normal } from "./harness.ts";

type Logits = Float32Array<ArrayBuffer>;
const MAX_NEW = 3;
/** Ids beyond the first tile: a tile of −∞ alone has no maximum. */
const most = (x: Logits) => x.map((y, i) => i % 4000 < 900 || i % 97 === 0 ? y : -Infinity);

/** Rows, ids, how logits are made of normal numbers, temperature, topK, topP; topK > 0 is tried with `sampleKept` too. */
const CASES: readonly (readonly [number, number, (x: Logits) => Logits, number, number, number])[] = [
  [300, 37, (x) => x, .8, 5, .9],
  [3, 4099, (x) => x, .7, 0, 1],
  [3, 4100, (x) => x, 0, 0, 1],
  [3, 9001, (x) => x, 1, 50, 1],
  // Fewer groups than tokens that are wanted.
  [2, 9001, (x) => x, 1, 700, .99],
  [2, 9001, (x) => x, 1.5, 100000, .5],
  [2, 70000, (x) => x, 1, 1000, .95],
  // A nucleus that a list holds, and one of most tokens.
  [3, 70002, (x) => x.map((y) => 4 * y), 1, 0, .9],
  [2, 70002, (x) => x.map((y) => y / 8), 1, 0, .9],
  // Ties: few at the cut, more than a list holds, and one number alone.
  [2, 70000, (x) => x.map(Math.round), 1, 50, 1],
  [2, 70000, (x) => x.map(Math.sign), .9, 60, .8],
  [2, 5003, (x) => x.map(() => -2), 1, 20, .5],
  [2, 5003, (x) => x.map(() => 3), 1, 0, .25],
  [2, 5003, (x) => x.map(() => 0), 0, 0, 1],
  [2, 12001, most, 1, 40, 1],
  [2, 12001, most, .6, 0, .9],
  [2, 12001, most, 1, 0, 1],
  // Groups of more than one tile.
  [1, 140003, (x) => x.map((y) => 3 * y), 1, 50, .95],
  [1, 151936, (x) => x.map((y) => 3 * y), 1, 0, .95],
  [1, 151936, (x) => x, 1, 0, 1],
];

export function sampleCases(): Case[] {
  const next = generator(11);
  return CASES.flatMap(([rows, v, of, temperature, topK, topP]) => {
    const logits = of(normal(rows * v, next)), state = () => new Int32Array(rows);
    const slots = ints(...Array(rows).keys());
    const sampler = Int32Array.from({ length: 8 * rows }, (_, i) => [5, -7, i >> 3, 1, MAX_NEW][i & 7] ?? 0);
    const ins = () => [
      ...[logits, slots, state(), state(), state(), state(), sampler, ints(1)],
      ...[new Int32Array(MAX_NEW * rows), new Float32Array(MAX_NEW * rows)],
    ];
    const inPlace = (...all: number[]) => all.map((inPlace) => ({ inPlace }));
    const attrs = [rows, v, temperature, topK, topP, 1, MAX_NEW];
    const plain: Case = { kind: "sample", ins: ins(), outs: [], attrs, updates: inPlace(2, 3, 4, 5, 8, 9) };
    if (topK === 0 || topK > 1024) return [plain];
    const kept = new Int32Array(MAX_NEW * rows * topK), updates = inPlace(2, 3, 4, 5, 8, 9, 10);
    return [plain, { kind: "sampleKept", ins: [...ins(), kept], outs: [], attrs, updates }];
  });
}
