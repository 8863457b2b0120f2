import assert from "node:assert/strict";
import { denominators } from "../../engine/train.ts";

const actions = [Int32Array.of(), Int32Array.of(2, 3), Int32Array.of(), Int32Array.of(1)];

Deno.test("denominators() counts the tokens, sequences and pairs of a mini-batch", () => {
  assert.deepEqual(denominators("actor.train", actions, [0, 1, 3], () => true), {
    "inputs/count.token": 3,
    "inputs/count.sequence": 3,
    "inputs/count.pair": 1.5,
  });
});

Deno.test("denominators() refuses a mini-batch without an action for a mean over tokens only", () => {
  const perToken = (port: string) => port === "inputs/count.token";
  assert.throws(
    () => denominators("actor.train#2", actions, [0, 2], perToken),
    /^Error: Cannot train in actor\.train#2: none of the mini-batch's 2 samples has an action token and .*, check/,
  );
  assert.equal(denominators("actor.train", actions, [0, 2], () => false)["inputs/count.token"], 0);
});
