import assert from "node:assert/strict";
import fc from "fast-check";
import { fromBfloat16, toBfloat16 } from "../../engine/half.ts";
import { Safetensors, type TensorToWrite, writeSafetensors } from "../../engine/safetensors.ts";
import { withFolder } from "./shared.ts";

/** A file with this header and data, as another program would write it. */
async function writeRaw(path: string, header: unknown, data: Uint8Array = new Uint8Array(0)): Promise<void> {
  const json = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + json.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  bytes.set(data, 8 + json.length);
  await Deno.writeFile(path, bytes);
}

const tensors = fc.dictionary(
  fc.string({ minLength: 1, unit: "grapheme" }).filter((name) => name !== "__metadata__"),
  fc.record({
    shape: fc.array(fc.integer({ min: 0, max: 5 }), { maxLength: 3 }),
    dtype: fc.constantFrom("F32" as const, "BF16" as const, "I32" as const),
    seed: fc.integer({ min: 1, max: 1000 }),
  }),
  { maxKeys: 6 },
);

Deno.test("Safetensors reads back what writeSafetensors() wrote, name by name", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/t.safetensors`;
    await fc.assert(
      fc.asyncProperty(tensors, async (spec) => {
        const values = (name: string) => {
          const { shape, seed, dtype } = spec[name]!;
          const numbers = Array.from(
            { length: shape.reduce((n, d) => n * d, 1) },
            (_, i) => Math.sin(i * seed) * seed,
          );
          return dtype === "I32" ? Int32Array.from(numbers) : Float32Array.from(numbers);
        };
        const list: TensorToWrite[] = Object.entries(spec).map(([name, { shape, dtype }]) => ({
          name,
          shape,
          dtype,
        }));
        await writeSafetensors(path, list, values);
        using file = await Safetensors.open(path);
        assert.deepEqual([...file.tensors.keys()], Object.keys(spec).sort());
        assert.deepEqual(file.metadata, { format: "pt" });
        for (const { name, shape, dtype } of list) {
          const expected = values(name);
          if (dtype === "I32") assert.deepEqual(await file.readIntegers(name, shape), expected);
          else if (dtype === "F32") assert.deepEqual(await file.read(name, shape), expected);
          else {assert.deepEqual(
              await file.read(name, shape),
              fromBfloat16(toBfloat16(expected as Float32Array)),
            );}
        }
      }),
      { numRuns: 40 },
    );
  });
});

Deno.test("writeSafetensors() makes the bytes that the format describes", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/t.safetensors`;
    const data: Record<string, Float32Array> = { b: Float32Array.of(1, 2), a: Float32Array.of(3) };
    await writeSafetensors(
      path,
      [{ name: "b", shape: [2], dtype: "F32" }, { name: "a", shape: [1], dtype: "BF16" }],
      (name) => data[name]!,
    );
    const bytes = await Deno.readFile(path);
    const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    assert.equal(length % 8, 0);
    const text = new TextDecoder().decode(bytes.subarray(8, 8 + length));
    assert.equal(
      text.trimEnd(),
      '{"__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]},"b":{"dtype":"F32","shape":[2],"data_offsets":[2,10]}}',
    );
    assert.deepEqual([...bytes.subarray(8 + length)], [0x40, 0x40, 0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]);
  });
});

Deno.test("writeSafetensors() asks for one tensor at a time and refuses what does not fit", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/t.safetensors`;
    const list = ["c", "a", "b"].map((name) => ({ name, shape: [4], dtype: "F32" as const }));
    const asked: string[] = [];
    let open = 0;
    await writeSafetensors(path, list, async (name) => {
      asked.push(name);
      assert.equal(++open, 1, "two tensors were asked for at once");
      await Promise.resolve();
      open--;
      return new Float32Array(4);
    });
    assert.deepEqual(asked, ["a", "b", "c"]);
    await assert.rejects(
      writeSafetensors(path, list, () => new Float32Array(3)),
      /Cannot write a to .*3 values, \[4\] F32/,
    );
    await assert.rejects(
      writeSafetensors(path, [...list, list[0]!], () => new Float32Array(4)),
      /two tensors are named c/,
    );
  });
});

Deno.test("Safetensors reads 64-bit integers that fit and names those that do not", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/t.safetensors`;
    const header = { n: { dtype: "I64", shape: [2], data_offsets: [0, 16] } };
    await writeRaw(path, header, new Uint8Array(BigInt64Array.of(-5n, 2147483647n).buffer));
    {
      using file = await Safetensors.open(path);
      assert.deepEqual([...await file.readIntegers("n")], [-5, 2147483647]);
    }
    await writeRaw(path, header, new Uint8Array(BigInt64Array.of(1n, 2147483648n).buffer));
    using file = await Safetensors.open(path);
    await assert.rejects(file.readIntegers("n"), /Cannot read n of .*2147483648 does not fit/);
  });
});

Deno.test("Safetensors refuses bad files in one line with file and tensor", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/bad.safetensors`;
    const f32 = (shape: unknown, offsets: unknown) => ({ w: { dtype: "F32", shape, data_offsets: offsets } });
    const bytes = (n: number) => new Uint8Array(n);
    const cases: [string, () => Promise<void>, RegExp][] = [
      ["short", () => Deno.writeFile(path, bytes(5)), /has 5 bytes and is no safetensors file/],
      ["huge header", () => Deno.writeFile(path, bytes(16).fill(255)), /header claims \d+ bytes/],
      ["truncated header", async () => {
        await writeRaw(path, f32([1], [0, 4]), bytes(4));
        await Deno.truncate(path, 30);
      }, /its header needs \d+ bytes and the file has 30, it is truncated/],
      ["no JSON", () => writeRaw(path, "{nonsense"), /its header is not JSON/],
      ["a list", () => writeRaw(path, "[]"), /its header is not a JSON object/],
      [
        "truncated data",
        () => writeRaw(path, f32([4], [0, 16]), bytes(12)),
        /tensor w ends at byte \d+ and the file has \d+, it is truncated/,
      ],
      [
        "wrong size",
        () => writeRaw(path, f32([4], [0, 12]), bytes(12)),
        /tensor w of shape \[4\] F32 needs 16 bytes and has 12/,
      ],
      [
        "no shape",
        () => writeRaw(path, f32(undefined, [0, 4]), bytes(4)),
        /tensor w lacks a dtype, a shape or data_offsets/,
      ],
      ["negative dim", () => writeRaw(path, f32([-1], [0, 4]), bytes(4)), /tensor w lacks/],
      [
        "unknown dtype",
        () => writeRaw(path, { w: { dtype: "F12", shape: [1], data_offsets: [0, 4] } }, bytes(4)),
        /tensor w has the unknown dtype F12/,
      ],
      ["hole", () => writeRaw(path, f32([1], [4, 8]), bytes(8)), /tensor w begins at byte \d+ instead of/],
      [
        "overlap",
        () =>
          writeRaw(
            path,
            { ...f32([2], [0, 8]), v: { dtype: "F32", shape: [1], data_offsets: [4, 8] } },
            bytes(8),
          ),
        /tensor v begins/,
      ],
      [
        "trailing bytes",
        () => writeRaw(path, f32([1], [0, 4]), bytes(8)),
        /its tensors end at byte \d+ and the file has/,
      ],
    ];
    for (const [what, write, message] of cases) {
      await write();
      await assert.rejects(Safetensors.open(path), (error: Error) => {
        assert.match(error.message, message, what);
        assert.ok(error.message.includes(path) && !error.message.includes("\n"), `${what}: ${error.message}`);
        return true;
      });
    }
    await assert.rejects(
      Safetensors.open(`${folder}/none`),
      /Cannot open checkpoint .*none: there is no such file or folder/,
    );
  });
});

Deno.test("Safetensors refuses a wrong dtype, a wrong shape and an absent tensor when it is read", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/t.safetensors`;
    await writeSafetensors(path, [{ name: "i", shape: [2], dtype: "I32" }, {
      name: "f",
      shape: [2],
      dtype: "F32",
    }], (name) => name === "i" ? new Int32Array(2) : new Float32Array(2));
    using file = await Safetensors.open(path);
    await assert.rejects(file.read("i"), /Cannot read i of .*it has dtype I32/);
    await assert.rejects(file.readIntegers("f"), /Cannot read f of .*it has dtype F32/);
    await assert.rejects(
      file.read("f", [1, 2]),
      /Cannot read f of .*it has shape \[2\], \[1, 2\] is expected/,
    );
    await assert.rejects(file.read("g"), /Cannot read g: .*has no such tensor/);
  });
});

Deno.test("Safetensors opens shards by their index and refuses an index that reaches outside", async () => {
  await withFolder(async (folder) => {
    const one = (name: string, value: number) =>
      writeSafetensors(
        `${folder}/${name}.safetensors`,
        [{ name, shape: [1], dtype: "F32" }],
        () => Float32Array.of(value),
      );
    await one("a", 1);
    await one("b", 2);
    const index = (map: Record<string, string>) =>
      Deno.writeTextFile(`${folder}/model.safetensors.index.json`, JSON.stringify({ weight_map: map }));
    await index({ b: "b.safetensors", a: "a.safetensors" });
    {
      using file = await Safetensors.open(folder);
      assert.deepEqual([...file.tensors.keys()], ["a", "b"]);
      assert.equal((await file.read("b"))[0], 2);
    }
    await index({ a: "../secret.safetensors" });
    await assert.rejects(Safetensors.open(folder), /"\.\.\/secret\.safetensors" is no file name/);
    await index({ a: "a.safetensors", c: "c.safetensors", d: "d.safetensors" });
    await assert.rejects(
      Safetensors.open(folder),
      /the index names c\.safetensors, d\.safetensors, which the folder lacks/,
    );
    await Deno.copyFile(`${folder}/a.safetensors`, `${folder}/e.safetensors`);
    await index({ a: "a.safetensors", e: "e.safetensors" });
    await assert.rejects(Safetensors.open(folder), /holds a tensor a too/);
    await Deno.remove(`${folder}/model.safetensors.index.json`);
    await assert.rejects(Safetensors.open(folder), /neither model\.safetensors nor/);
  });
});
