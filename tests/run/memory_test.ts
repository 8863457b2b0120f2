import assert from "node:assert/strict";
import { succeeds, tinyModel, withWorld } from "./fixtures.ts";

const SIZE = {
  hidden_size: 256,
  intermediate_size: 1024,
  num_hidden_layers: 6,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 4096,
  max_position_embeddings: 128,
  initializer_range: 0.02,
};

const LAYOUTS: Readonly<Record<string, readonly string[]>> = {
  "one device": [],
  "one device in bf16": ["--precision", "bf16"],
  "four devices with data and tensor parallelism": ["--devices", "cpu:4", "--strategy", "dp2tp2"],
  "four devices with data and tensor parallelism in bf16": [
    "--devices",
    "cpu:4",
    "--strategy",
    "dp2tp2",
    "--precision",
    "bf16",
  ],
  "four devices with data and pipeline parallelism": ["--devices", "cpu:4", "--strategy", "dp2pp2"],
};

for (const [layout, flags] of Object.entries(LAYOUTS)) {
  Deno.test(`the memory of a run on ${layout} grows by no more than its byte table says, plus 3 % and 64 MB`, async () => {
    await withWorld(async (world) => {
      await tinyModel(`${world}/policy`, { config: SIZE });
      await tinyModel(`${world}/reward`, { config: SIZE, head: "reward" });
      const { out } = await succeeds("memory.ts", [
        "--world",
        world,
        "--out",
        `${world}/out`,
        "--quiet",
        ...flags,
      ]);
      const { grown, rows } = JSON.parse(out) as {
        grown: number;
        rows: { name: string; bytes: number; where: string }[];
      };
      const total = rows.reduce((n, row) => n + row.bytes, 0);
      const figures = `grown by ${Math.round(grown / 1e6)} MB, the table says ${Math.round(total / 1e6)} MB`;
      assert.ok(total > 300e6, figures);
      assert.ok(grown <= 1.03 * total + 64e6, figures);
      // A table may not buy safety with air: most of what it says is used.
      assert.ok(grown >= 0.7 * total, figures);
      console.log(figures);
      for (
        const name of [
          "actor params",
          "actor moments",
          "critic moments",
          "ref params",
          "reward params",
          "in turn",
        ]
      ) {
        assert.ok(rows.some((row) => row.name === name && row.bytes > 0), name);
      }
      const host = rows.filter((row) => row.where === "host").map((row) => row.name);
      assert.deepEqual(host, ["data", "batch", "weights on their way to and from files", "score worker"]);
    });
  });
}
