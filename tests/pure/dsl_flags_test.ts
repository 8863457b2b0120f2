import assert from "node:assert/strict";
import { z } from "zod";
import { parseFlags, splitArguments } from "../../dsl/flags.ts";

const schema = {
  model: z.string().describe("folder of the model"),
  lr: z.number().positive().default(1e-3),
  steps: z.int().positive().optional(),
  shuffle: z.boolean().default(true),
  weightDecay: z.number().min(0).default(0).describe("on matrices"),
  betas: z.tuple([z.number(), z.number()]).default([0.9, 0.999]),
  stop: z.array(z.int()).default([]),
  schedule: z.enum(["constant", "cosine"]).default("constant"),
};
const values = (...args: string[]) => {
  const parsed = parseFlags(schema, ["--model", "m", ...args]);
  assert.ok(parsed.kind === "values");
  return parsed.values;
};

Deno.test("parseFlags() fills in defaults", () => {
  assert.deepEqual(values(), {
    model: "m",
    lr: 1e-3,
    steps: undefined,
    shuffle: true,
    weightDecay: 0,
    betas: [0.9, 0.999],
    stop: [],
    schedule: "constant",
  });
});

Deno.test("parseFlags() reads both spellings of a value and of a name", () => {
  assert.equal(values("--lr", "3e-4").lr, 3e-4);
  assert.equal(values("--lr=3e-4").lr, 3e-4);
  assert.equal(values("--weight-decay", "0.1").weightDecay, 0.1);
  assert.equal(values("--weightDecay=0.1").weightDecay, 0.1);
  assert.equal(values("--model", "--odd").model, "--odd");
});

Deno.test("parseFlags() reads switches, lists and choices", () => {
  assert.equal(values("--no-shuffle").shuffle, false);
  assert.equal(values("--shuffle").shuffle, true);
  assert.equal(values("--shuffle=false").shuffle, false);
  assert.deepEqual(values("--betas", "0.9,0.95").betas, [0.9, 0.95]);
  assert.deepEqual(values("--stop", "1,2,3").stop, [1, 2, 3]);
  assert.equal(values("--schedule", "cosine").schedule, "cosine");
});

Deno.test("parseFlags() types its values", () => {
  const { lr, steps, betas }: { lr: number; steps?: number | undefined; betas: [number, number] } = values();
  assert.deepEqual([lr, steps, betas], [1e-3, undefined, [0.9, 0.999]]);
});

Deno.test("parseFlags() lists every mistake", () => {
  assert.throws(
    () =>
      parseFlags(schema, [
        "extra",
        "--lrr",
        "--lr",
        "fast",
        "--steps",
        "0",
        "--betas",
        "1",
        "--schedule",
        "x",
        "--stop",
      ]),
    (error: Error) => {
      assert.ok(error instanceof TypeError);
      const expected = [
        /^Cannot read the flags: "extra" belongs to no flag; there is no flag --lrr; --stop needs a value; /,
        /--model is required/,
        /--lr: expected number, received string/,
        /--steps: Too small: expected number to be >0/,
        /--betas: Too small: expected array to have >=2 items/,
        /--schedule: Invalid option: expected one of "constant"\|"cosine"/,
        /, --help lists all$/,
      ];
      for (const part of expected) assert.match(error.message, part);
      return true;
    },
  );
});

Deno.test("parseFlags() says what the flags are", () => {
  const parsed = parseFlags(schema, ["--lr", "1", "--help"]);
  assert.deepEqual(parsed, {
    kind: "help",
    text: [
      "Flags:",
      "  --model TEXT                folder of the model (required)",
      "  --lr N                      (default 0.001)",
      "  --steps N",
      "  --[no-]shuffle              (default true)",
      "  --weight-decay N            on matrices (default 0)",
      "  --betas A,B,…               (default 0.9,0.999)",
      "  --stop A,B,…",
      "  --schedule constant|cosine  (default constant)",
      "",
    ].join("\n"),
  });
});

Deno.test("splitArguments() tells a schema's own arguments from those of another part of the program", () => {
  const args = [
    "--port",
    "80",
    "--lr",
    "1",
    "--no-shuffle",
    "--betas=0,1",
    "x",
    "--shuffle",
    "y",
    "--help",
    "--no-lr",
  ];
  assert.deepEqual(splitArguments(schema, args), {
    own: ["--lr", "1", "--no-shuffle", "--betas=0,1", "--shuffle", "--help"],
    others: ["--port", "80", "x", "y", "--no-lr"],
  });
});
