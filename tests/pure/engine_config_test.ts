import assert from "node:assert/strict";
import { parseConfig } from "../../engine/config.ts";
import { parse, stringify } from "../../engine/yaml.ts";

Deno.test("parseConfig() fills in defaults, of an empty file too", () => {
  const expected = {
    run: { saveEvery: 50, keep: 2, seed: 1, logSamples: 4 },
    plan: { replan: false },
    score: { deadlineSeconds: 60 },
  };
  assert.deepEqual(parseConfig({}, "x"), expected);
  assert.deepEqual(parseConfig(parse(""), "x"), expected);
});

Deno.test("parseConfig() lists every violation with its path", () => {
  const text =
    "run: { steps: 0, sved: 1 }\nfoo: 2\ndevices: gpu\nplan: { recompute: no, strategy: dp0 }\nmemoryGiB: -1\nthreads: 1.5\n";
  assert.throws(() => parseConfig(parse(text), "run.yaml"), (error: Error) => {
    assert.match(error.message, /^Cannot use run\.yaml: /);
    for (
      const part of [
        "run.steps: ",
        "run.sved: unknown key, run has steps",
        "foo: unknown key, the file has run, devices",
        'devices: is "gpu", it must be cpu:8 for 8 devices',
        'plan.strategy: is "dp0", it must name each of dp, tp and pp',
        "plan.recompute: ",
        "memoryGiB: ",
        "threads: ",
      ]
    ) assert.ok(error.message.includes(part), `${part} in ${error.message}`);
    assert.ok(!error.message.includes("\n"));
    return true;
  });
  assert.throws(() => parseConfig([], "x"), /the file: expected object, received array/);
});

Deno.test("parse() gives plain values and names the place of a mistake in one line", () => {
  assert.deepEqual(parse("a: 1e-6\nb: [no, 'x']\nc: {d: null}\n"), {
    a: 1e-6,
    b: ["no", "x"],
    c: { d: null },
  });
  assert.throws(() => parse("a: 1\na: 2\n"), {
    name: "SyntaxError",
    message: "Cannot parse YAML: line 2, column 1: Map keys must be unique, correct it there",
  });
  assert.throws(() => parse("a: [1"), /^SyntaxError: Cannot parse YAML: line 1, column \d+: [^\n]*$/);
  assert.deepEqual(parse(stringify({ a: [1, { b: "x: y" }] })), { a: [1, { b: "x: y" }] });
});
