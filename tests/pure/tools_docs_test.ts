import assert from "node:assert/strict";
import { brokenLinks, type DocJson, undocumented, unlistedErrors } from "../../tools/check_docs.ts";

const symbol = (name: string, kind: string, doc?: string) => ({
  name,
  declarations: [{
    kind,
    ...(doc === undefined ? {} : { jsDoc: { doc } }),
    location: { filename: "file:///r/mod.ts", line: 3 },
  }],
});
const docs = (...symbols: ReturnType<typeof symbol>[]): DocJson => ({
  version: 2,
  nodes: { "file:///r/mod.ts": { symbols } },
});

Deno.test("undocumented() wants a comment on every symbol and an example on functions", () => {
  const { declarations: [declaration], name } = symbol("tagged", "function");
  const jsDoc = { doc: "Does it.", tags: [{ doc: "```ts\ntagged();\n```" }] };
  const tagged = { name, declarations: [{ ...declaration!, jsDoc }] };
  const bad = undocumented(docs(
    symbol("good", "function", "Does it.\n```ts\ngood();\n```"),
    symbol("Fine", "interface", "A thing."),
    tagged,
    symbol("bare", "typeAlias"),
    symbol("told", "function", "Does it."),
  ));
  assert.deepEqual(bad, [
    "file:///r/mod.ts:3: bare has no doc comment",
    "file:///r/mod.ts:3: told has no ```ts example",
  ]);
});

Deno.test("undocumented() leaves what a package exports to the package", () => {
  const { declarations: [declaration] } = symbol("z", "namespace");
  const location = { filename: "file:///cache/npm/registry.example/zod/4/index.d.cts", line: 1 };
  assert.deepEqual(undocumented(docs({ name: "z", declarations: [{ ...declaration!, location }] })), []);
});

Deno.test("undocumented() refuses an output of deno doc that it does not know", () => {
  assert.throws(() => undocumented({ version: 1, nodes: {} }), /version 1, this check knows version 2/);
});

Deno.test("brokenLinks() follows relative links and anchors", () => {
  const text = [
    "# Top",
    "[a](glossary.md) [b](../README.md#two-words) [c](#top) [web](https://example.org/x) [folder](decisions/)",
    "[gone](gone.md) [anchor](glossary.md#nope)",
    "`[code](gone.md)`",
    "```",
    "[fenced](gone.md)",
    "```",
  ].join("\n");
  const source = { path: "docs/x.md", text };
  const files = new Map<string, string | null>([
    ["docs/x.md", text],
    ["docs/glossary.md", "# Glossary"],
    ["README.md", "## Two `words`"],
    ["docs/decisions", null],
  ]);
  assert.deepEqual(brokenLinks(source, files), [
    "docs/x.md:3: links to gone.md, which does not exist",
    "docs/x.md:3: links to glossary.md#nope, and docs/glossary.md has no such heading",
  ]);
});

Deno.test("unlistedErrors() compares messages with the page in both directions", () => {
  const sources = [
    { path: "engine/a.ts", text: 'throw new Error("Cannot read x"); `Cannot bind ${y}`' },
    { path: "run.ts", text: '"Cannot start"' },
    { path: "examples/b.ts", text: '"Cannot rhyme"' },
  ];
  assert.deepEqual(unlistedErrors(sources, "`Cannot read`, `Cannot start a run`, `Cannot fly`"), [
    'engine/a.ts: says "Cannot bind", which docs/errors.md does not explain',
    'docs/errors.md: explains "Cannot fly", which nothing says',
  ]);
});
