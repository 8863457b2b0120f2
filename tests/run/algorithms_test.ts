/** Every algorithm script, run for a few steps on the tiny task: what it is there for gets better. */
import assert from "node:assert/strict";
import { EXAMPLES, improved, type Row, runExamples } from "../../examples/all.ts";
import { makePreferences } from "../../examples/couplets/make_preferences.ts";
import { records } from "../../examples/calculator/make_data.ts";
import { readLines, ROOT } from "./fixtures.ts";

const folder = await Deno.makeTempDir({ prefix: "baton-algorithms-" });
/** All of them have begun: each test waits for its own. */
const rows = runExamples(EXAMPLES, folder);
for (const row of rows) row.catch(() => {});

for (const [i, example] of EXAMPLES.entries()) {
  const { script, metric, better, steps } = example;
  Deno.test({
    name: `examples/${script}.ts: ${metric} is ${better} after ${steps} steps`,
    // Processes of other examples come and go meanwhile.
    sanitizeOps: false,
    sanitizeResources: false,
    async fn() {
      const row: Row = await rows[i]!;
      assert.ok(
        Number.isFinite(row.before) && improved(row),
        `${metric}: ${row.before} before, ${row.after} after`,
      );
    },
  });
}

Deno.test("every script below examples/ is run by a test", async () => {
  const scripts: string[] = [];
  for await (const { name } of Deno.readDir(`${ROOT}examples`)) {
    if (name.endsWith(".ts")) scripts.push(name.replace(".ts", ""));
  }
  const elsewhere = ["all", "http_judge", "ppo_sentiment", "quickstart"];
  const here = EXAMPLES.map((e) => e.script).filter((script) => !script.includes("/"));
  assert.deepEqual(scripts.sort(), [...here, ...elsewhere].sort());
});

Deno.test("every algorithm script fits one screen and says where its formula is from", async () => {
  for (const { script } of EXAMPLES) {
    const text = await Deno.readTextFile(`${ROOT}examples/${script}.ts`);
    assert.ok(text.split("\n").length <= 72, `${script} is too long for a screen`);
    assert.match(text, /^\/\*\*[^]*?\b(19|20)\d\d\b[^]*?\*\//, `${script} cites no paper`);
  }
});

Deno.test("the data of the algorithm scripts are what their makers write", () => {
  const { preferences, judged, couplets } = makePreferences();
  const data = { preferences, judged, couplets };
  for (const [name, made] of Object.entries(data)) {
    assert.deepEqual(readLines(`${ROOT}examples/couplets/data/${name}.jsonl`), made, name);
  }
  for (const [name, made] of Object.entries(records)) {
    assert.deepEqual(readLines(`${ROOT}examples/calculator/${name}.jsonl`), made, name);
  }
});

Deno.test({
  name: "the examples' outputs are removed",
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    await Promise.allSettled(rows);
    await Deno.remove(folder, { recursive: true });
  },
});
