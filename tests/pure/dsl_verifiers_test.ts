import assert from "node:assert/strict";
import fc from "fast-check";
import { finalNumber, mathVerifier } from "../../dsl/verifiers.ts";

Deno.test("finalNumber() reads numbers as people write them", () => {
  const cases: readonly [string, number | null][] = [
    ["#### 1,350", 1350],
    ["first 5 #### 7\nand 8", 7],
    ["\\boxed{\\frac{3}{4}} of 9", 0.75],
    ["\\boxed{\\boxed{2}}", 2],
    ["\\boxed{1{,}000}", 1000],
    ["the answer is -10", -10],
    ["costs $-4", -4],
    ["costs -$4", -4],
    ["3-4", 4],
    ["3 - 4", 4],
    ["(a) - 4", 4],
    ["x-4", 4],
    ["(-3)", -3],
    ["−3 degrees", -3],
    ["= .5", 0.5],
    ["1/2 cup", 0.5],
    ["10%.", 10],
    ["2.5e3", 2500],
    ["12,345.50 in all.", 12345.5],
    ["1,2,3", 3],
    ["no idea", null],
    ["\\boxed{}", null],
    ["1/0", null],
    ["", null],
  ];
  for (const [text, value] of cases) assert.equal(finalNumber(text), value, text);
});

Deno.test("finalNumber() finds every whole number and decimal in any sentence", () => {
  const words = fc.array(fc.constantFrom("so", "it", "is", "$", "=", "about", "(", "7"), { maxLength: 5 });
  fc.assert(fc.property(fc.integer({ min: -1e9, max: 1e9 }), fc.nat(99), words, (whole, cents, before) => {
    const value = whole + Math.sign(whole) * cents / 100;
    const written = Math.abs(value).toLocaleString("en-US", { maximumFractionDigits: 2 });
    const sign = value < 0 ? "-" : "";
    for (const number of [`${sign}${written}`, String(Number(value.toFixed(2)))]) {
      assert.equal(finalNumber(`${before.join(" ")} the result is ${number}.`), Number(value.toFixed(2)));
    }
  }));
});

Deno.test("mathVerifier() compares whole numbers exactly, others nearly, and marked texts", () => {
  const cases: readonly [string, string, number][] = [
    ["It is 2880000.", "#### 2,880,000", 1],
    ["It is 2880001.", "#### 2,880,000", 0],
    ["0.33333333", "1/3", 1],
    ["0.33", "1/3", 0],
    ["I do not know", "4", 0],
    ["\\boxed{\\text{Monday}}", "monday", 1],
    ["Monday", "monday", 0],
    ["#### x^n", "\\boxed{x^n}", 1],
    ["\\boxed{\\left(a, b\\right)}", "(a,b)", 1],
  ];
  for (const [response, answer, value] of cases) {
    assert.equal(mathVerifier({ response, answer }), value, `${response} against ${answer}`);
  }
});
