import assert from "node:assert/strict";
import { cycles, importNames, parseTable, violations } from "../../tools/check_imports.ts";
import { codeOnly, importsOf } from "../../tools/source.ts";

const TABLE = parseTable([
  "| folder | what it does | may import |",
  "|---|---|---|",
  "| `ir/` | vocabulary | nothing outside `ir/` |",
  "| `ffi/` | native | `ir` |",
  "| `planner/` | plans | `ir`, `compiler` |",
  "| `compiler/` | programs | `ir` |",
  "| `engine/` | runs | `ir`, `compiler`, `ffi` |",
  "| `run.ts`, `cli/` | root | everything |",
].join("\n"));

const NAMES = importNames({
  name: "@baton/baton",
  imports: { zod: "npm:zod@4" },
  exports: { ".": "./mod.ts", "./cli": "./cli/main.ts" },
});

/** Violations of a repository with these files, by path. */
const check = (files: Record<string, string>): string[] =>
  violations(Object.entries(files).map(([path, text]) => ({ path, text })), TABLE, NAMES);

Deno.test("parseTable() reads folders, root files and what they may import", () => {
  assert.deepEqual([...TABLE.get("ir")!], ["ir"]);
  assert.deepEqual([...TABLE.get("engine")!].sort(), ["compiler", "engine", "ffi", "ir"]);
  assert.equal(TABLE.get("run"), null);
  assert.equal(TABLE.get("cli"), null);
  assert.throws(() => parseTable("# nothing"), /Cannot read the import table/);
});

Deno.test("parseTable() finds every source folder in the real document", async () => {
  const table = parseTable(await Deno.readTextFile(new URL("../../docs/architecture.md", import.meta.url)));
  for (const folder of ["ir", "ffi", "dsl", "compiler", "planner", "engine", "cli"]) {
    assert.ok(table.has(folder));
  }
});

Deno.test("violations() accepts imports that the table allows", () => {
  assert.deepEqual(
    check({
      "ir/op.ts": "export const a = 1;\n",
      "compiler/x.ts":
        'import { a } from "../ir/op.ts";\nimport { z } from "npm:zod@4";\nexport const b = z ?? a;\n',
      "engine/y.ts": 'import { b } from "../compiler/x.ts";\nexport { b };\n',
      "run.ts": 'export * from "./engine/y.ts";\nexport const later = () => import("./cli/main.ts");\n',
      "cli/main.ts": 'import type { b } from "../run.ts";\nexport type B = typeof b;\n',
      "run/session.ts":
        'import "../cli/main.ts";\nimport config from "../deno.json" with { type: "json" };\nconfig;\n',
      "mod.ts": 'export { b } from "./run.ts";\n',
      "examples/ppo.ts": 'import { b } from "@baton/baton";\nimport { z } from "zod";\nexport { b, z };\n',
    }),
    [],
  );
});

Deno.test("violations() names file, line and rule of a forbidden import", () => {
  const bad = check({
    "ir/op.ts":
      'import { z } from "npm:zod@4";\nimport type { B } from "../compiler/x.ts";\nexport type A = B;\nz;\n',
    "compiler/x.ts": 'import "zod";\nimport "npm:zod@3";\nexport type B = number;\n',
    "engine/y.ts": 'export const p = await import("../planner/z.ts");\n',
    "planner/z.ts": 'import "npm:yaml@2";\nimport "./missing.ts";\n',
    "run.ts": 'import "./examples/e.ts";\n',
    "examples/e.ts": 'import "npm:zod@4";\n',
  });
  assert.deepEqual(bad, [
    'ir/op.ts:1: imports "npm:zod@4", but ir/ imports nothing outside itself',
    "ir/op.ts:2: imports compiler/x.ts, but ir may import ir",
    'compiler/x.ts:1: imports "zod", the library says "npm:zod@4" as deno.json has it',
    'compiler/x.ts:2: imports "npm:zod@3", name it in deno.json\'s imports and import that name',
    "engine/y.ts:1: imports planner/z.ts, but engine may import engine, ir, compiler, ffi",
    'planner/z.ts:1: imports "npm:yaml@2", name it in deno.json\'s imports and import that name',
    "planner/z.ts:2: imports planner/missing.ts, which does not exist",
    "run.ts:1: imports examples/e.ts, but run may import only folders of the table",
    'examples/e.ts:1: imports "npm:zod@4", name it in deno.json\'s imports and import that name',
  ]);
});

Deno.test("violations() keeps clocks, files and unseeded randomness out of pure folders", () => {
  const text = [
    "/* Date and fetch in a comment are fine */",
    'export const words = "Math.random() and Deno";',
    "export const now = Date.now();",
    "export const r = `${Math.random()} Deno`;",
    'import { readFileSync } from "node:fs";',
    'import type { Buffer } from "node:buffer";',
    "export const o = { process: 1 }.process;",
    "export type B = Buffer;",
    "readFileSync;",
  ].join("\n");
  assert.deepEqual(check({ "planner/p.ts": text }), [
    'planner/p.ts:5: imports "node:fs", but planner/ has to run in a browser',
    "planner/p.ts:3: says Date, but planner/ touches no clock, file, environment or unseeded randomness",
    "planner/p.ts:4: says Math.random, but planner/ touches no clock, file, environment or unseeded randomness",
  ]);
  assert.deepEqual(check({ "cli/p.ts": text }), []);
});

Deno.test("violations() allows Deno.dlopen in ffi only", () => {
  const text = "export const open = () => Deno.dlopen('x', {});\n";
  assert.deepEqual(check({ "ffi/library.ts": text }), []);
  assert.deepEqual(check({ "engine/x.ts": text }), ["engine/x.ts:1: says Deno.dlopen, which only ffi/ may"]);
});

Deno.test("violations() reports files that are too long", () => {
  const lines = (n: number) => "//\n".repeat(n);
  assert.deepEqual(
    check({ "engine/a.ts": lines(300), "tests/pure/t.ts": lines(400), "cuda/cpu/b.cpp": lines(600) }),
    [],
  );
  const bad = check({
    "engine/a.ts": lines(301),
    "cuda/cpu/b.cpp": lines(601),
    "tests/pure/t.ts": lines(401),
  });
  assert.equal(bad.length, 3);
  assert.match(bad[0]!, /^engine\/a\.ts:301: has 301 lines and 300 are the most/);
  assert.match(bad[1]!, /^cuda\/cpu\/b\.cpp:601: has 601 lines and 600 are the most/);
});

Deno.test("violations() reports import cycles, also through types, but not through import()", () => {
  assert.deepEqual(
    check({
      "ir/a.ts": 'import type { B } from "./b.ts";\nexport type A = B;\n',
      "ir/b.ts": 'export * from "./c.ts";\nexport type B = 1;\n',
      "ir/c.ts": 'import "./a.ts";\n',
    }),
    ["ir/a.ts: imports itself through ir/b.ts → ir/c.ts → ir/a.ts"],
  );
  assert.deepEqual(
    check({ "ir/a.ts": 'import "./b.ts";\n', "ir/b.ts": 'export const a = () => import("./a.ts");\n' }),
    [],
  );
});

Deno.test("cycles() finds two cycles that share a file", () => {
  const edges = new Map([["a", ["b", "c"]], ["b", ["a"]], ["c", ["a"]], ["d", ["a"]]]);
  assert.deepEqual(cycles(edges), [["a", "b", "a"], ["a", "c", "a"]]);
});

Deno.test("codeOnly() blanks comments, strings, templates and regular expressions, and keeps offsets", () => {
  const text = [
    "#!/usr/bin/env deno",
    "const a = 'it\\'s Deno'; // Deno",
    "const b = /[/\"']Deno/.test(x) ? 1 / 2 / 3 : `Deno ${f({ k: `${Date}` })} Deno`;",
    "/* Deno\n Deno */ const c = (d) / Date;",
  ].join("\n");
  const code = codeOnly(text);
  assert.equal(code.length, text.length);
  assert.equal(code.includes("Deno"), false);
  assert.equal(code.match(/Date/g)?.length, 2);
  assert.equal(code.split("\n").length, text.split("\n").length);
  assert.equal(code.indexOf("const c"), text.indexOf("const c"));
});

Deno.test("importsOf() reads every form of import and nothing from strings", () => {
  const text = [
    'import a, { b } from "./1.ts";',
    'import type { C } from "./2.ts";',
    'import * as d from "./3.ts";',
    'import "./4.ts";',
    "export {\n  e,\n} from './5.ts';",
    'export const f = () => import("./6.ts");',
    "export const g = 'import x from \"./7.ts\"';",
    'export type { H } from "./8.ts";',
  ].join("\n");
  const found = importsOf({ path: "x.ts", text });
  assert.deepEqual(found.map((i) => i.specifier), [
    "./1.ts",
    "./2.ts",
    "./3.ts",
    "./4.ts",
    "./5.ts",
    "./6.ts",
    "./8.ts",
  ]);
  assert.deepEqual(found.filter((i) => i.typeOnly).map((i) => i.specifier), ["./2.ts", "./8.ts"]);
  assert.deepEqual(found.filter((i) => i.dynamic).map((i) => i.line), [8]);
});
