import assert from "node:assert/strict";
import fc from "fast-check";
import { choosePages } from "../../planner/pages.ts";

const cache = fc.record({
  slots: fc.integer({ min: 1, max: 128 }),
  maxPages: fc.integer({ min: 1, max: 64 }),
});

Deno.test("choosePages() gives every cache one sequence at least, all its slots at most, and more for a larger share", () => {
  const share = fc.double({ min: 0, max: 1, noNaN: true });
  fc.assert(
    fc.property(fc.array(cache, { minLength: 1, maxLength: 3 }), share, share, (caches, a, b) => {
      const pages = choosePages(caches, a), more = choosePages(caches, Math.max(a, b));
      caches.forEach((c, i) => {
        assert.ok(pages[i]! >= c.maxPages && pages[i]! <= c.slots * c.maxPages);
        assert.ok(more[i]! >= pages[i]!);
      });
      assert.deepEqual(choosePages(caches, 0), caches.map((c) => c.maxPages));
      assert.deepEqual(choosePages(caches, 1), caches.map((c) => c.slots * c.maxPages));
    }),
  );
});

Deno.test("choosePages() reaches every number of pages of a single cache", () => {
  const one = { slots: 10, maxPages: 4 };
  const pages = Array.from({ length: 37 }, (_, k) => choosePages([one], k / 36)[0]);
  assert.deepEqual(pages, Array.from({ length: 37 }, (_, k) => 4 + k));
});
