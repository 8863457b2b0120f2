import assert from "node:assert/strict";
import { Builder } from "../../compiler/builder.ts";
import {
  compileCopyPages,
  compileDecode,
  compileInfer,
  compilePrefill,
  compileTrain,
  compileUpdate,
} from "../../compiler/compile.ts";
import { wholeShard } from "../../compiler/layout.ts";
import { encode, FORMAT_VERSION, MAGIC } from "../../compiler/encode.ts";
import { SIZE_ATTRIBUTES } from "../../compiler/operands.ts";
import { dim, extent, OPCODE, type OpKind, type Segment, SEGMENTS, SYMBOLS } from "../../ir/op.ts";
import type { Program } from "../../ir/program.ts";
import { decode } from "./compiler_decoder.ts";
import { ADAMW, CACHE, MAXIMA, nll, SAMPLING, tiny } from "./compiler_fixtures.ts";

Deno.test("encode() writes what docs/program-format.md says", () => {
  const b = new Builder(() => 64),
    x = b.input("x", [dim("tokens", 3)]),
    y = b.declare("outputs", "y", [dim("tokens", 3)]);
  b.emit("fill", [], [b.value("unused", [2], { place: { segment: "saved", offset: 128 } })], [2, -1.5]);
  b.emit("copy", [x], [y], [dim("tokens", 3)]);
  const bytes = Object.fromEntries(SEGMENTS.map((s, i) => [s, 64 * i])) as Record<Segment, number>;
  const decoded = decode(encode(b.ops, (v) => v.place!, bytes, MAXIMA));
  assert.deepEqual([decoded.magic, decoded.version], [MAGIC, FORMAT_VERSION]);
  assert.deepEqual(decoded.segments, SEGMENTS.map((_, i) => 64 * i));
  assert.deepEqual(decoded.symbols, SYMBOLS.map((s) => MAXIMA[s]));
  assert.deepEqual(decoded.ops, [
    {
      kind: "fill",
      operands: [{ segment: "saved", dtype: "f32", offset: 128, bytes: 8 }],
      attributes: [{ symbol: "one", times: 2 }, -1.5],
    },
    {
      kind: "copy",
      operands: [
        { segment: "inputs", dtype: "f32", offset: 0, bytes: 768 },
        { segment: "outputs", dtype: "f32", offset: 0, bytes: 768 },
      ],
      attributes: [{ symbol: "tokens", times: 3 }],
    },
  ]);
});

Deno.test("encode() is the same bytes every time", async () => {
  const bytes = () =>
    compileTrain(wholeShard(tiny(), "lm"), { maxima: MAXIMA, loss: nll(), fields: {}, recompute: "cheap" })
      .backward.bytes;
  const digest = async (x: Uint8Array<ArrayBuffer>) =>
    new Uint8Array(await crypto.subtle.digest("SHA-256", x));
  assert.deepEqual(await digest(bytes()), await digest(bytes()));
});

Deno.test("encode() refuses an offset that is no cache line or beyond 32 bits of them, and a size beyond 32 bits", () => {
  const none = Object.fromEntries(SEGMENTS.map((s) => [s, 0])) as Record<Segment, number>;
  const refused = (offset: number, n: number, message: RegExp) => {
    const b = new Builder(() => 64);
    b.emit("fill", [], [b.value("x", [1], { place: { segment: "inputs", offset } })], [n, 0]);
    assert.throws(() => encode(b.ops, (v) => v.place!, none, MAXIMA), message);
  };
  refused(4, 1, /Cannot encode fill: x is at byte 4, not a multiple of 64/);
  refused(2 ** 38, 1, /Cannot encode fill: x is at byte 274877906944, not a multiple of 64 below 256 GiB/);
  refused(64, 2 ** 32, /Cannot encode fill: attribute 0 is 4294967296, more than 32 bits/);
});

const all = (): Program[] => {
  const config = tiny({ model_type: "qwen3", architectures: [], head_dim: 8, tie_word_embeddings: true });
  const generate = { ...CACHE, maxima: MAXIMA, sampling: SAMPLING }, shard = wholeShard(config, "lm");
  return [
    compileInfer(shard, { maxima: MAXIMA, outputs: ["logprobs", "entropy"] }),
    compileInfer(wholeShard(config, "reward"), { maxima: MAXIMA, outputs: ["rewards"] }),
    compileTrain(shard, { maxima: MAXIMA, loss: nll(), fields: {}, recompute: "layers" }).backward,
    compileUpdate(shard, ADAMW),
    compilePrefill(shard, generate),
    compileDecode(shard, generate),
    compileCopyPages(shard, generate),
  ];
};

Deno.test("programs decode to as many operations as they say, inside their segments", () => {
  for (const p of all()) {
    const { ops, segments } = decode(p.bytes);
    assert.equal(ops.length, p.operations, p.name);
    assert.deepEqual(segments, SEGMENTS.map((s) => p.segmentBytes[s]));
    for (const { operands } of ops) {
      for (const o of operands) {
        assert.ok(o.offset + o.bytes <= p.segmentBytes[o.segment], `${p.name} ${o.segment}`);
      }
    }
  }
});

Deno.test("the byte table and the ports cover exactly the segments", () => {
  for (const p of all()) {
    for (const s of SEGMENTS) {
      const end = Math.max(
        0,
        ...p.table.filter((row) => row.segment === s).map((row) => row.offset + row.bytes),
      );
      assert.equal(end, p.segmentBytes[s], `${p.name} ${s}`);
    }
    for (const [name, port] of Object.entries(p.ports)) {
      assert.equal(port.bytes, 4 * port.shape.reduce<number>((n, d) => n * extent(d, MAXIMA), 1), name);
    }
  }
});

Deno.test("SIZE_ATTRIBUTES are those of cuda/common/opcodes.h", () => {
  const header = Deno.readTextFileSync(new URL("../../cuda/common/opcodes.h", import.meta.url));
  const rows = [...header.matchAll(/\{(\d+), "(\w+)", "([^"]*)"/g)];
  assert.equal(rows.length, Object.keys(OPCODE).length);
  for (const [, code, kind, attributes] of rows) {
    assert.equal(OPCODE[kind as OpKind], Number(code), kind);
    const sizes = attributes!.split(" ").flatMap((word, i) => word.endsWith(":") ? [i] : []);
    assert.deepEqual(SIZE_ATTRIBUTES[kind as OpKind], sizes, kind);
  }
});
