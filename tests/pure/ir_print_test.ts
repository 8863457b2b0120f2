/** Printed forms, compared with files; `UPDATE_GOLDEN=1 deno test -A tests/pure/ir_print_test.ts` writes them anew. */
import assert from "node:assert/strict";
import { models, policyModel, score, text } from "../../dsl/mod.ts";
import { columns, mermaid, printGraph } from "../../ir/print.ts";
import { ppo, rewardModelling } from "./dsl_fixtures.ts";

async function golden(name: string, actual: string): Promise<void> {
  const file = new URL(`./golden_print/${name}`, import.meta.url);
  if (Deno.env.get("UPDATE_GOLDEN") === "1") await Deno.writeTextFile(file, actual);
  assert.equal(actual, await Deno.readTextFile(file));
}

const workflows = {
  ppo: ppo().graph,
  ppo_evaluation: ppo().evaluation!.graph,
  reward: rewardModelling().graph,
};
for (const [name, graph] of Object.entries(workflows)) {
  Deno.test(`printGraph() and mermaid() of ${name} are as in golden_print`, async () => {
    await golden(`${name}.txt`, printGraph(graph, { sites: false }));
    await golden(`${name}.mmd`, mermaid(graph));
  });
}

Deno.test("printGraph() ends a line with the line of the script, where known", () => {
  const [line] = printGraph(ppo().graph).split("\n").filter((l) => l.includes("actor.generate"));
  assert.match(line!, / dsl_fixtures\.ts:\d+$/);
});

Deno.test("mermaid() escapes what a label cannot hold", () => {
  const graph = {
    ...rewardModelling().graph,
    source: { ...rewardModelling().graph.source, path: 'a "b".jsonl' },
  };
  assert.match(mermaid(graph), /data\[\("a #quot;b#quot;\.jsonl"\)\]/);
});

Deno.test("a flow without data prints what it reads", () => {
  const { actor } = models({ actor: policyModel("m") });
  const flow = actor.generate().then(score("rewards", { response: text, answer: text }, () => 1));
  assert.match(String(flow), /^flow: reads prompt answer\n/);
});

Deno.test("columns() pads every column to its widest cell", () => {
  assert.equal(columns([["a", "bb", "c"], ["aaa", "b"]]), "  a    bb  c\n  aaa  b");
});
