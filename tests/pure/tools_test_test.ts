import assert from "node:assert/strict";
import { countOf, total } from "../../tools/test.ts";

Deno.test("countOf() reads the last summary of deno test, coloured or not", () => {
  assert.deepEqual(countOf("ok | 12 passed | 0 failed (3s)\n", true), { passed: 12, failed: 0, skipped: 0 });
  const coloured =
    "\x1b[0m\x1b[31mFAILED\x1b[0m | 1 passed (2 steps) | 3 failed | 4 ignored \x1b[0m(107ms)\x1b[0m\n";
  assert.deepEqual(countOf(coloured, false), { passed: 1, failed: 3, skipped: 4 });
  const stepped =
    "ok | 9 passed | 0 failed (1ms)\nFAILED | 5 passed (4 steps) | 1 failed (2 steps) | 1 ignored (1 step) (1ms)\n";
  assert.deepEqual(countOf(stepped, false), { passed: 5, failed: 1, skipped: 1 });
});

Deno.test("countOf() counts a crash or a type error as a failure", () => {
  assert.deepEqual(countOf("running 3 tests\na ... ok\n", false), { passed: 0, failed: 1, skipped: 0 });
  assert.deepEqual(countOf("", true), { passed: 0, failed: 1, skipped: 0 });
  assert.deepEqual(countOf("ok | 3 passed | 0 failed (1ms)\n", false), { passed: 3, failed: 1, skipped: 0 });
});

Deno.test("total() ends with passed and failed alone on a line, after a line of what was skipped", () => {
  assert.equal(
    total([{ passed: 1, failed: 0, skipped: 0 }, { passed: 2, failed: 1, skipped: 0 }]),
    "3 passed, 1 failed",
  );
  assert.equal(total([{ passed: 1, failed: 0, skipped: 2 }]), "2 skipped\n1 passed, 0 failed");
});
