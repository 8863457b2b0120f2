import assert from "node:assert/strict";
import fc from "fast-check";
import { share } from "../../engine/partition.ts";

const weights = fc.array(fc.integer({ min: 1, max: 500 }), { minLength: 1, maxLength: 60 });

Deno.test("share() gives every sample to one part, keeps blocks and their order, and levels the parts", () => {
  fc.assert(
    fc.property(weights, fc.integer({ min: 1, max: 8 }), fc.constantFrom(1, 2, 4), (w, parts, together) => {
      const n = w.length - w.length % together, order = Array.from({ length: n }, (_, i) => n - 1 - i);
      const shares = share(order, { parts, together, weight: (s) => w[s]! }),
        at = new Map(order.map((s, i) => [s, i]));
      assert.equal(shares.length, parts);
      assert.deepEqual(shares.flat().sort((a, b) => a - b), order.toSorted((a, b) => a - b));
      const totals = shares.map((part) => part.reduce((sum, s) => sum + w[s]!, 0));
      let heaviest = 0;
      for (const part of shares) {
        for (let i = 0; i < part.length; i++) {
          if (i > 0) assert.ok(at.get(part[i]!)! > at.get(part[i - 1]!)!);
          if (i % together === 0) {
            const block = part.slice(i, i + together);
            assert.deepEqual(block, order.slice(at.get(part[i]!)!, at.get(part[i]!)! + together));
            heaviest = Math.max(heaviest, block.reduce((sum, s) => sum + w[s]!, 0));
          }
        }
      }
      // The last block went to the lightest part.
      assert.ok(Math.max(...totals) <= Math.min(...totals) + heaviest);
    }),
  );
});

Deno.test("share() with one part is the order itself", () => {
  assert.deepEqual(share([4, 2, 9], { parts: 1, together: 1, weight: (s) => s }), [[4, 2, 9]]);
});
