import assert from "node:assert/strict";
import { displayWidth, shortBytes, shortNumber, shortTime, table } from "../../engine/table.ts";

Deno.test("table() aligns text left and numbers right, also beside wide characters", () => {
  const columns = [{ title: "call" }, { title: "s", align: "right" }, { title: "note" }] as const;
  assert.equal(
    table(columns, [["actor", "1.5", ""], ["日本", "10", "x"]]),
    ["call     s  note", "─────  ───  ────", "actor  1.5", "日本    10  x"].join("\n"),
  );
  assert.throws(() => table(columns, [["a"]]), /row 1 has 1 cells and there are 3 columns/);
});

Deno.test("displayWidth() counts what a terminal shows", () => {
  assert.deepEqual(["abc", "é", "e\u0301", "漢字", "🐔", "\x1b[31mred\x1b[0m", ""].map(displayWidth), [
    3,
    1,
    1,
    4,
    2,
    3,
    0,
  ]);
});

Deno.test("shortNumber(), shortBytes() and shortTime() stay short", () => {
  assert.deepEqual([0, 4096, 1e7, 0.012345, 1.23e-7, -12.345, NaN].map(shortNumber), [
    "0",
    "4,096",
    "1.00e+7",
    "0.0123",
    "1.23e-7",
    "-12.3",
    "NaN",
  ]);
  assert.deepEqual([0, 512, 1536, 2 ** 20, 45 * 2 ** 20, 3.5 * 2 ** 40].map(shortBytes), [
    "0 B",
    "512 B",
    "1.50 KiB",
    "1.00 MiB",
    "45.0 MiB",
    "3.50 TiB",
  ]);
  assert.deepEqual([0.421, 12.34, 59.99, 245, 3723, Infinity].map(shortTime), [
    "0.42 s",
    "12.3 s",
    "1:00",
    "4:05",
    "1:02:03",
    "?",
  ]);
});
