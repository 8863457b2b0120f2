import assert from "node:assert/strict";
import fc from "fast-check";
import { type Cache, choosePages } from "../../planner/pages.ts";

const cache = fc.record({
  slots: fc.integer({ min: 1, max: 128 }),
  maxPages: fc.integer({ min: 1, max: 64 }),
  bytesPerPage: fc.integer({ min: 1, max: 1000 }).map((n) => 128 * n),
});
const need = (caches: readonly Cache[], pages: readonly number[]) =>
  caches.reduce((n, c, i) => n + c.bytesPerPage * pages[i]!, 0);

Deno.test("choosePages() gives every cache one sequence at least, all its slots at most, and stays within memory", () => {
  fc.assert(
    fc.property(
      fc.array(cache, { minLength: 1, maxLength: 3 }),
      fc.double({ min: 0, max: 2, noNaN: true }),
      (caches, share) => {
        const least = need(caches, caches.map((c) => c.maxPages)),
          most = need(
            caches,
            caches.map((c) => c.slots * c.maxPages),
          ),
          bytes = Math.floor(share * most);
        const pages = choosePages(caches, bytes);
        caches.forEach((c, i) => assert.ok(pages[i]! >= c.maxPages && pages[i]! <= c.slots * c.maxPages));
        assert.ok(need(caches, pages) <= Math.max(bytes, least));
        if (bytes >= most) assert.equal(need(caches, pages), most);
      },
    ),
  );
});

Deno.test("choosePages() uses what is left to the page when there is one cache", () => {
  const one = { slots: 10, maxPages: 4, bytesPerPage: 1024 };
  assert.deepEqual(choosePages([one], 17 * 1024 + 5), [17]);
  assert.deepEqual(choosePages([one], 1024), [4]);
  assert.deepEqual(choosePages([one], 1e9), [40]);
});
