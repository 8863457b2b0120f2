import assert from "node:assert/strict";
import { parseArgs } from "../../cli/args.ts";
import { parseInvocation, UsageError } from "../../cli/command.ts";

Deno.test("parseArgs() splits flags from positional arguments", () => {
  const args = parseArgs(["a", "--name", "x", "--on", "b", "--eq=1=2", "-s", "9", "-", "--", "--on"], {
    string: ["name", "eq", "seed"],
    boolean: ["on", "off"],
    alias: { s: "seed" },
    "--": true,
  });
  assert.deepEqual(args, {
    _: ["a", "b", "-"],
    "--": ["--on"],
    name: "x",
    eq: "1=2",
    seed: "9",
    on: true,
    off: false,
  });
});

Deno.test("parseArgs() takes negative numbers as values but never the next flag", () => {
  const parse = (...args: string[]) => parseArgs(args, { string: ["x"], boolean: ["y"] });
  assert.equal(parse("--x", "-1.5").x, "-1.5");
  assert.equal(parse("--x", "-.5").x, "-.5");
  assert.equal(parse("--x", "-").x, "-");
  assert.deepEqual([parse("--x", "--y").x, parse("--x", "--y").y], ["", true]);
  assert.equal(parse("--x", "-y").x, "");
  assert.equal(parse("--x").x, "");
});

Deno.test("parseArgs() lets the last of several win and applies defaults and negation", () => {
  const options = { string: ["x"], boolean: ["y"], negatable: ["y"], default: { x: "d", y: true } } as const;
  assert.deepEqual(parseArgs([], options), { _: [], "--": [], x: "d", y: true });
  assert.deepEqual(parseArgs(["--x", "1", "--x=2", "--no-y"], options), {
    _: [],
    "--": [],
    x: "2",
    y: false,
  });
});

Deno.test("parseArgs() reports flags that are not declared", () => {
  const seen: unknown[] = [];
  parseArgs(["--what=1", "-q", "--no-y"], { boolean: ["y"], unknown: (...all) => seen.push(all) });
  assert.deepEqual(seen, [["--what=1", "what", "1"], ["-q", "q", undefined], ["--no-y", "no-y", undefined]]);
});

Deno.test("parseArgs() keeps newlines and empty strings of an inline value", () => {
  assert.equal(parseArgs(["--x=a\nb"], { string: ["x"] }).x, "a\nb");
  assert.equal(parseArgs(["--x="], { string: ["x"] }).x, "");
});

const sample = {
  name: "sample",
  usage: "MODEL [options]",
  positional: 1,
  options: {
    text: { kind: "string", value: "TEXT", help: "text" },
    count: { kind: "number", value: "N", help: "count", default: 3, integer: true, min: 1 },
    share: { kind: "number", value: "P", help: "share", min: 0, max: 1 },
    json: { kind: "flag", help: "json" },
  },
} as const;

Deno.test("parseInvocation() gives typed values with defaults", () => {
  const { positional, rest, values } = parseInvocation(sample, ["m", "--share", "0.5", "--", "--lr", "1"]);
  const count: number = values.count;
  const text: string | undefined = values.text;
  assert.deepEqual({ positional, rest, values }, {
    positional: ["m"],
    rest: ["--lr", "1"],
    values: { text, count, share: 0.5, json: false },
  });
  assert.deepEqual([count, text], [3, undefined]);
});

Deno.test("parseInvocation() lists every fault of a command line at once", () => {
  assert.throws(
    () => parseInvocation(sample, ["--count", "1.5", "--share=2", "--text", "--nope", "--json"]),
    (error) => {
      assert.ok(error instanceof UsageError);
      assert.equal(
        error.message,
        "Cannot run baton sample: there is no option --nope; MODEL is needed; " +
          "--text needs a value, as --text=TEXT; " +
          '--count is "1.5" and has to be a whole number of at least 1; ' +
          '--share is "2" and has to be a number from 0 to 1',
      );
      return true;
    },
  );
  assert.throws(() => parseInvocation(sample, ["a", "b", "c"]), /"b c" is one argument too many/);
  assert.throws(() => parseInvocation(sample, ["a", "--count", "NaN"]), /--count is "NaN"/);
  assert.throws(() => parseInvocation(sample, ["a", "--count", "0"]), /--count is "0"/);
});
