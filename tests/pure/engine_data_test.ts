import assert from "node:assert/strict";
import fc from "fast-check";
import { DataReader, type Sample, splitHeldOut } from "../../engine/data.ts";

const samples = (n: number): Sample[] => Array.from({ length: n }, (_, index) => ({ index, fields: {} }));
const indexes = (list: readonly Sample[]) => list.map((sample) => sample.index);
const sizes = fc.integer({ min: 1, max: 40 });

Deno.test("DataReader takes every sample once an epoch, in another order each time", () => {
  fc.assert(fc.property(sizes, fc.nat(1000), (n, seed) => {
    const reader = new DataReader(samples(n), { seed, shuffle: true });
    for (let epoch = 0; epoch < 3; epoch++) {
      assert.deepEqual(indexes(reader.next(n)).sort((a, b) => a - b), [...Array(n).keys()]);
    }
  }));
  const reader = new DataReader(samples(50), { seed: 1, shuffle: true });
  assert.notDeepEqual(indexes(reader.next(50)), indexes(reader.next(50)));
});

Deno.test("DataReader keeps the file's order when it does not shuffle, and goes on with the next epoch", () => {
  const reader = new DataReader(samples(3), { seed: 1, shuffle: false });
  assert.deepEqual(indexes(reader.next(5)), [0, 1, 2, 0, 1]);
  assert.deepEqual(reader.cursor, { epoch: 1, position: 2 });
});

Deno.test("DataReader resumed from a cursor gives what the uninterrupted one gives", () => {
  fc.assert(
    fc.property(
      sizes,
      fc.nat(1000),
      fc.boolean(),
      fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 1, maxLength: 8 }),
      (n, seed, shuffle, batches) => {
        const whole = new DataReader(samples(n), { seed, shuffle });
        let resumed = new DataReader(samples(n), { seed, shuffle });
        for (const batch of batches) {
          // A checkpoint is JSON.
          resumed = new DataReader(samples(n), { seed, shuffle }, JSON.parse(JSON.stringify(resumed.cursor)));
          assert.deepEqual(indexes(resumed.next(batch)), indexes(whole.next(batch)));
        }
        assert.deepEqual(resumed.cursor, whole.cursor);
      },
    ),
  );
});

Deno.test("DataReader refuses an empty data set and a cursor past its end", () => {
  const options = { seed: 1, shuffle: true };
  assert.throws(() => new DataReader([], options), RangeError);
  assert.throws(() => new DataReader(samples(3), options, { epoch: 0, position: 4 }), /put the file back/);
});

Deno.test("splitHeldOut() divides the samples, the same way for one seed", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 2, max: 60 }),
      fc.nat(100),
      fc.double({ min: 0.01, max: 0.5, noNaN: true }),
      (n, seed, share) => {
        const { training, heldOut } = splitHeldOut(samples(n), share, seed, "d.jsonl");
        assert.deepEqual([...indexes(training), ...indexes(heldOut)].sort((a, b) => a - b), [
          ...Array(n).keys(),
        ]);
        assert.equal(heldOut.length, Math.max(1, Math.round(n * share)));
        assert.deepEqual(indexes(splitHeldOut(samples(n), share, seed, "d.jsonl").heldOut), indexes(heldOut));
      },
    ),
  );
  const of = (seed: number) => indexes(splitHeldOut(samples(100), 0.2, seed, "d").heldOut);
  assert.notDeepEqual(of(1), of(2));
  assert.throws(() => splitHeldOut(samples(1), 0.5, 1, "d.jsonl"), /Cannot hold out 0\.5 of d\.jsonl/);
  assert.equal(splitHeldOut(samples(5), 0, 1, "d").heldOut.length, 0);
});
