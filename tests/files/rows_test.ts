import assert from "node:assert/strict";
import { parquetWriteBuffer } from "hyparquet-writer";
import { wantedColumns } from "../../engine/columns.ts";
import type { JsonObject } from "../../engine/files.ts";
import { readRows, RowError } from "../../engine/rows.ts";
import { withFolder } from "./shared.ts";

const CASES = new URL("../golden/cases/parquet/", import.meta.url).pathname;
const all = (path: string, wanted?: (column: string) => boolean) =>
  readRows(path, (row) => row, wanted ? { wanted } : {});

Deno.test("readRows() reads nested columns of every codec that pyarrow writes, over row groups", async () => {
  for (const codec of ["snappy", "zstd", "gzip", "none"]) {
    const { values } = await all(`${CASES}chats-${codec}.parquet`);
    assert.equal(values.length, 7);
    assert.deepEqual(values[4], {
      messages: [{ role: "user", content: "add 4" }, { role: "assistant", content: "it is 4" }],
      label: true,
      level: 40,
      reward_model: { ground_truth: "4", style: "rule" },
      input_ids: [4, 5, 6],
    });
  }
});

Deno.test("readRows() unpacks the wanted columns of a Parquet file alone", async () => {
  const wanted = wantedColumns({
    kind: "prompts",
    fields: { answer: { per: "sequence", dtype: "text" }, difficulty: { per: "sequence", dtype: "f32" } },
    columns: { difficulty: "level" },
  });
  const { values } = await all(`${CASES}chats-snappy.parquet`, wanted);
  assert.deepEqual(Object.keys(values[0]!).sort(), ["input_ids", "level", "messages", "reward_model"]);
});

Deno.test("readRows() names the row of a Parquet file, and a file that is none", async () => {
  const refuse = (row: JsonObject) => {
    if ((row["level"] as number) % 20) throw new RowError("odd");
    return row;
  };
  await assert.rejects(
    readRows(`${CASES}chats-zstd.parquet`, refuse),
    /chats-zstd\.parquet row 2: odd; .* row 4: odd; .* row 6: odd, repair/,
  );
  await withFolder(async (folder) => {
    const data = (values: bigint[]) =>
      parquetWriteBuffer({ columnData: [{ name: "n", data: values, type: "INT64" }] });
    await Deno.writeFile(`${folder}/a.parquet`, new Uint8Array(data([1n, 2n ** 60n])));
    await assert.rejects(all(`${folder}/a.parquet`), /a\.parquet row 2: .*1152921504606846976 is too large/);
    const whole = await Deno.readFile(`${CASES}chats-none.parquet`);
    await Deno.writeFile(`${folder}/cut.parquet`, whole.subarray(0, whole.length - 9));
    await assert.rejects(
      all(`${folder}/cut.parquet`),
      /Cannot read data: .*cut\.parquet cannot be read as Parquet/,
    );
  });
});

Deno.test("readRows() reads JSON lists, JSON lines in a .json file, and several files by one pattern", async () => {
  await withFolder(async (folder) => {
    const rows = [{ a: 1 }, { a: 2 }, { a: 3 }];
    await Deno.writeTextFile(`${folder}/list.json`, JSON.stringify(rows, null, 1));
    await Deno.writeTextFile(`${folder}/lines.json`, rows.map((r) => JSON.stringify(r)).join("\n"));
    await Deno.writeTextFile(`${folder}/bad.json`, "[{]");
    await Deno.writeTextFile(`${folder}/mixed.json`, `[{"a":1}, 2]`);
    assert.deepEqual((await all(`${folder}/list.json`)).values, rows);
    assert.deepEqual((await all(`${folder}/lines.json`)).values, rows);
    await assert.rejects(all(`${folder}/bad.json`), /bad\.json: not valid JSON/);
    await assert.rejects(all(`${folder}/mixed.json`), /mixed\.json row 2: not a JSON object/);
    for (const [i, row] of rows.entries()) {
      await Deno.writeTextFile(`${folder}/train-${i}-of-3.jsonl`, JSON.stringify(row));
    }
    const together = await all(`${folder}/train-*.jsonl`);
    assert.deepEqual(together.values, rows);
    assert.notEqual(together.digest, (await all(`${folder}/train-0*.jsonl`)).digest);
    await assert.rejects(all(`${folder}/test-*.jsonl`), /no file is named as/);
    await assert.rejects(all(`${folder}/*-*.jsonl`), /more than one \*/);
    await assert.rejects(all(folder), /is a folder, give a file, or files as .*train-\*\.parquet/);
  });
});
