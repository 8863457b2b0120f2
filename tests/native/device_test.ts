/** Devices, memory, programs and their failures, through the real library. */
import assert from "node:assert/strict";
import { FORMAT_VERSION } from "../../compiler/encode.ts";
import { describe, Device, DeviceSegment, Group, LoadedProgram, NativeError } from "../../ffi/device.ts";
import { STATUS, SYMBOLS } from "../../ffi/symbols.ts";
import {
  dim,
  type Op,
  OPCODE,
  type OpKind,
  SEGMENTS,
  SYMBOLS as PROGRAM_SYMBOLS,
  type Value,
} from "../../ir/op.ts";
import type { Program } from "../../ir/program.ts";
import { cases } from "./cases.ts";
import {
  assertSameBits,
  device,
  floats,
  generator,
  normal,
  ONE,
  onEveryAxis,
  prepare,
  program,
  value,
} from "./harness.ts";

Deno.test("symbols.ts lists the functions and codes of baton.h", async () => {
  const header = await Deno.readTextFile(new URL("../../cuda/baton.h", import.meta.url));
  const type = (c: string) => {
    if (c.includes("*")) return "buffer";
    const name = c.trim().split(/\s+/)[0]!;
    return { uint32_t: "u32", int32_t: "i32", uint64_t: "u64", double: "f64", void: "void" }[name];
  };
  const found = Object.fromEntries(
    [...header.matchAll(/^BATON_API (\w+) (\w+)\(([^;]*)\);/gm)].map(([, result, name, list]) => [name, {
      parameters: list === "void" ? [] : list!.split(",").map(type),
      result: type(result!),
    }]),
  );
  const listed = Object.fromEntries(
    Object.entries(SYMBOLS).map(([name, s]) => [name, { parameters: [...s.parameters], result: s.result }]),
  );
  assert.deepEqual(listed, found);
  const codes = [...header.matchAll(/BATON_(\w+) = (-?\d+)/g)].map(([, name, code]) => [name, Number(code)]);
  assert.deepEqual(Object.entries(STATUS), codes);
});

Deno.test("opcodes.h lists the operations of ir/op.ts", async () => {
  const table = await Deno.readTextFile(new URL("../../cuda/common/opcodes.h", import.meta.url));
  const listed = [...table.matchAll(/\{(\d+), "(\w+)"/g)].map(([, code, name]) => [name, Number(code)]);
  assert.deepEqual(listed, Object.entries(OPCODE));
});

Deno.test("describe() names the instruction set and the scratch of a thread", () => {
  const d = describe();
  assert.equal(d.backend, "cpu");
  assert.ok(["generic", "avx2", "avx512"].includes(d.isa));
  assert.ok(d.cores >= 1 && d.scratchBytesPerThread > 0);
});

Deno.test("a segment starts as zeros, keeps what is written and refuses what is outside", () => {
  using s = new DeviceSegment(1000);
  assert.ok(s.read(0, new Uint8Array(1000)).every((x) => x === 0));
  s.write(996, floats(1.5));
  assert.equal(s.read(996, new Float32Array(1))[0], 1.5);
  s.fill(10, 5, 7);
  assert.deepEqual([...s.read(9, new Uint8Array(7))], [0, 7, 7, 7, 7, 7, 0]);
  assert.throws(() => s.write(997, floats(1)), NativeError);
  assert.throws(() => s.read(1001, new Uint8Array(0)), /Cannot read 0 bytes at 1001 of a segment of 1000/);
  assert.throws(() => s.fill(0, 1001, 0), NativeError);
  assert.throws(
    () => new DeviceSegment(2 ** 45),
    (e) => e instanceof NativeError && e.status === STATUS.OUT_OF_MEMORY,
  );
});

Deno.test("a freed handle is an error and not another object", () => {
  const s = new DeviceSegment(64);
  s.dispose();
  using _other = new DeviceSegment(64);
  assert.throws(
    () => s.write(0, floats(1)),
    (e) => e instanceof NativeError && e.status === STATUS.BAD_HANDLE,
  );
  assert.throws(() => s.dispose(), NativeError);
});

/** y = a chain of `count` copies of n floats that starts at x, all in the arena. */
function copies(n: number, count: number): { readonly made: Program; readonly last: number } {
  const values = Array.from({ length: count + 1 }, (_, i) => value(i, n)), step = Math.ceil(n * 4 / 64) * 64;
  const places = new Map(values.map((v, i) => [v, (i % 2) * step]));
  const ops: Op[] = values.slice(1).map((v, i) => ({
    kind: "copy",
    ins: [values[i]!],
    outs: [v],
    attrs: [dim("tokens")],
  }));
  return { made: program(ops, places, 2 * step, { ...ONE, tokens: n }), last: (count % 2) * step };
}

Deno.test("submit() runs with the live dims, in order, and refuses what does not fit", async () => {
  const { made, last } = copies(100, 3);
  using loaded = LoadedProgram.load(made);
  using arena = new DeviceSegment(made.segmentBytes.arena);
  const x = normal(100, generator(1));
  arena.write(0, x);
  await device().submit(loaded, { arena }, { ...ONE, tokens: 60 }).done;
  const y = arena.read(last, new Float32Array(100));
  assertSameBits(y.subarray(0, 60), x.subarray(0, 60), "live");
  assert.ok(y.subarray(60).every((v) => v === 0));
  await Promise.all(
    Array.from({ length: 50 }, () => device().submit(loaded, { arena }, { ...ONE, tokens: 100 }).done),
  );

  using small = new DeviceSegment(64);
  const submit = (arena: DeviceSegment | undefined, tokens: number) => () =>
    device().submit(loaded, arena ? { arena } : {}, { ...ONE, tokens });
  assert.throws(submit(arena, 101), /Cannot run copy\+copy\+copy: tokens is 101 and at most 100/);
  assert.throws(
    submit(small, 200),
    /segment arena has 64 bytes and needs 896; tokens is 200 and at most 100/,
  );
  assert.throws(submit(undefined, 1), /segment arena has 0 bytes and needs 896/);
});

Deno.test("a failing operation rejects with its place and reason, and the device goes on", async () => {
  const { program, arena, at } = prepare("gatherRows", [floats(1, 2), Int32Array.of(0, 2)], [2], [2, 1, 2]);
  using loaded = LoadedProgram.load(program);
  using _memory = arena;
  await assert.rejects(
    device().submit(loaded, { arena }, ONE).done,
    (e) =>
      e instanceof NativeError && e.status === STATUS.FAILED &&
      e.message === "Cannot run gatherRows: operation 0 (gatherRows): row 1 is 2 and there are 2",
  );
  arena.write(at[1]!, Int32Array.of(0, 1));
  await device().submit(loaded, { arena }, ONE).done;
});

Deno.test("cancel() ends queued and running programs early, close() rejects what is left", async () => {
  const { made } = copies(1 << 20, 2000);
  using loaded = LoadedProgram.load(made);
  using arena = new DeviceSegment(made.segmentBytes.arena);
  const d = Device.open({ threads: 2 }), dims = { ...ONE, tokens: 1 << 20 };
  const cancelled = [d.submit(loaded, { arena }, dims), d.submit(loaded, { arena }, dims)];
  d.cancel(true);
  for (const result of await Promise.allSettled(cancelled.map((job) => job.done))) {
    assert.ok(result.status === "rejected" && result.reason.status === STATUS.CANCELLED, "cancelled");
  }
  d.cancel(false);
  await d.submit(loaded, { arena }, { ...ONE, tokens: 10 }).done;
  const left = d.submit(loaded, { arena }, dims);
  d.close();
  d.close();
  await assert.rejects(left.done, /the device was closed/);
  assert.throws(() => d.submit(loaded, { arena }, dims), /the device is closed, open another one/);
});

Deno.test("memory that a queued program uses outlives its handle", async () => {
  const { made } = copies(1 << 18, 200),
    loaded = LoadedProgram.load(made),
    arena = new DeviceSegment(made.segmentBytes.arena);
  const running = device().submit(loaded, { arena }, { ...ONE, tokens: 1 << 18 });
  arena.dispose();
  loaded.dispose();
  await running.done;
});

Deno.test("profile() reports nanoseconds by operation and starts again", async () => {
  using d = Device.open({ threads: 1 });
  const { made } = copies(1000, 10);
  using loaded = LoadedProgram.load(made);
  using arena = new DeviceSegment(made.segmentBytes.arena);
  await d.submit(loaded, { arena }, { ...ONE, tokens: 1000 }).done;
  const { all, copy, ...rest } = d.profile();
  assert.ok(all! > 0 && copy! > 0 && copy! <= all!);
  assert.deepEqual(rest, {});
  assert.deepEqual(d.profile(), { all: 0 });
});

Deno.test("open() refuses zero threads", () => {
  assert.throws(() => Device.open({ threads: 0 }), NativeError);
});

Deno.test("a process ends by itself with devices open and work done", async () => {
  const code = `import { Device } from "${new URL("../../ffi/device.ts", import.meta.url)}";
    Device.open({ threads: 2 }); console.log("done");`;
  const child = new Deno.Command(Deno.execPath(), { args: ["eval", code], stdout: "piped" }).output();
  const { success, stdout } = await child;
  assert.ok(success);
  assert.equal(new TextDecoder().decode(stdout).trim(), "done");
});

Deno.test("the build says in one line that there is no compiler", async () => {
  const script = new URL("../../ffi/build.ts", import.meta.url).href;
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", script],
    env: { CXX: "no-such-compiler" },
  });
  const { success, stderr } = await command.output();
  assert.ok(!success);
  const lines = new TextDecoder().decode(stderr).trim().split("\n");
  assert.equal(
    lines.at(-1),
    'Cannot build the native library: CXX is "no-such-compiler", which is not there, install one with `apt-get install g++` (or set CXX)',
  );
});

// ---- malformed programs ------------------------------------------------------------------------------------------

const load = (bytes: Uint8Array<ArrayBuffer>) => {
  const base = copies(10, 1).made;
  LoadedProgram.load({ ...base, name: "test", bytes }).dispose();
};

/** A program of several operations, whose bytes are then damaged. */
function sampleProgram(): Program {
  const v = (id: number, n: number) => value(id, n);
  const [x, w, y, z, g] = [v(0, 40), v(1, 160), v(2, 40), v(3, 40), v(4, 1)],
    places = new Map<Value, number>();
  [x!, w!, y!, z!, g!].forEach((value, i) => places.set(value, i * 640));
  const op = (kind: OpKind, ins: Value[], outs: Value[], attrs: Op["attrs"]): Op => ({
    kind,
    ins,
    outs,
    attrs,
  });
  return program(
    [
      op("matmul", [x!, w!], [y!], [dim("tokens"), 10, 10, 1, 0]),
      op("pointwise", [y!, g!], [z!], [dim("tokens", 10), 2, 2, 1, 1, 0, 0, .5, 0, 0, 3, 0, 2, 0, 3]),
      op("total", [z!], [g!], [dim("tokens", 10), 0]),
    ],
    places,
    5 * 640,
    { ...ONE, tokens: 4 },
  );
}

Deno.test("load() names what is wrong with a program", () => {
  const good = sampleProgram().bytes,
    view = (change: (v: DataView) => void) => {
      const copy = good.slice();
      change(new DataView(copy.buffer));
      return () => load(copy);
    };
  load(good);
  const start = 24 + 8 * SEGMENTS.length + 8 * Math.ceil(PROGRAM_SYMBOLS.length / 2);
  assert.throws(view((v) => v.setUint32(0, 1)), /Cannot load test: it does not start with BATN/);
  assert.throws(view((v) => v.setUint32(4, 1, true)), new RegExp(`its version is 1, not ${FORMAT_VERSION}`));
  assert.throws(
    view((v) => v.setUint16(start, 999, true)),
    /operation 0 \(unknown\): opcode 999 is not known/,
  );
  assert.throws(view((v) => v.setUint16(start, 14, true)), /operation 0 \(swiglu\)/);
  assert.throws(view((v) => v.setUint16(start + 8, 10, true)), /operand 0 is in segment 10/);
  assert.throws(view((v) => v.setUint16(start + 10, 3, true)), /operand 0 has type 3/);
  assert.throws(view((v) => v.setUint16(start + 10, 2, true)), /w is not of the type of x/);
  assert.throws(view((v) => v.setUint32(start + 12, 5000, true)), /operand 0 ends past its segment/);
  assert.throws(view((v) => v.setUint32(start + 8 + 48 + 4, 5, true)), /x has 160 bytes and needs 800/);
  assert.throws(view((v) => v.setUint32(start + 8 + 48, 9, true)), /attribute 0 has an unknown symbol/);
  assert.throws(view((v) => v.setFloat64(start + 8 + 48 + 8, 17, true)), /w has 640 bytes and needs 1280/);
  assert.throws(view((v) => v.setFloat64(start + 8 + 48 + 8, -1, true)), /attribute 1 is not a whole number/);
  assert.throws(() => load(new Uint8Array([...good, 0])), /bytes follow its last operation/);
});

Deno.test("load() refuses an output that lies over checked integers or over another output", () => {
  const [x, rows, y] = [value(0, 4), value(1, 4), value(2, 4)];
  const gather = (at: number) => {
    const op: Op = { kind: "gatherRows", ins: [x, rows], outs: [y], attrs: [4, 1, 4] };
    return program([op], new Map([[x, 0], [rows, 64], [y, at]]), 256);
  };
  LoadedProgram.load(gather(128)).dispose();
  assert.throws(() => LoadedProgram.load(gather(64)), /operation 0 \(gatherRows\): y lies over rows/);
  const [g, u] = [value(3, 4), value(4, 4)];
  const op: Op = { kind: "swigluGrad", ins: [x, rows, y], outs: [g, u], attrs: [4] };
  const places = new Map([[x, 0], [rows, 64], [y, 128], [g, 128], [u, 128]]);
  assert.throws(() => LoadedProgram.load(program([op], places, 256)), /dgate lies over dup/);
});

Deno.test("load() refuses counts and flags that would move operands from where kernels look for them", () => {
  const all = Array.from({ length: 10 }, (_, i) => value(i, 16));
  const refuses = (kind: OpKind, ins: number, outs: number, attrs: Op["attrs"], why: RegExp) => {
    const op: Op = { kind, ins: all.slice(0, ins), outs: all.slice(ins, ins + outs), attrs };
    assert.throws(() => LoadedProgram.load(program([op], new Map(all.map((v, i) => [v, 64 * i])), 640)), why);
  };
  // −4 inputs and 5 outputs are one operand, and place the first constant where the number of inputs is.
  refuses("pointwise", 0, 1, [16, -4, 1, 5, 0, 0, 0, 0, 0], /attribute 1 is not a whole number/);
  refuses("pointwise", 0, 1, [16, 0, -1, 1, 0], /attribute 2 is not a whole number/);
  refuses("ropes", 6, 4, [1, 1, 1, 2, 1, 1e-5, 2], /norm is neither 0 nor 1/);
  refuses("linearLogprobDx", 8, 1, [1, 1, 1, 3, 0, 1, 0, 0], /entropyFlag is neither 0 nor 1/);
  refuses("matmul", 2, 1, [1, 1, 1, 2, 0], /panels is neither 0 nor 1/);
});

Deno.test("load() refuses a chain whose outputs lie over one another, or over inputs but at their place", () => {
  const [x, y, u, v] = [value(0, 32), value(1, 32), value(2, 32), value(3, 1)];
  const chain = (ins: Value[], outs: Value[], at: number[], strides: number[]) => {
    const code = [1, 0, ins.length - 1, 0], last = outs.map(() => ins.length);
    const attrs = [32, ins.length, 1, outs.length, ...strides, ...code, ...last];
    const op: Op = { kind: "pointwise", ins, outs, attrs };
    return () =>
      LoadedProgram.load(program([op], new Map([...ins, ...outs].map((w, i) => [w, at[i]!])), 1024))
        .dispose();
  };
  chain([x, y], [u], [0, 128, 0], [1, 1])();
  chain([x, y], [u], [0, 128, 128], [1, 1])();
  assert.throws(chain([x, y], [u], [0, 128, 64], [1, 1]), /output 0 lies over input 0/);
  assert.throws(chain([x, v], [u], [0, 128, 128], [1, 0]), /output 0 lies over input 1/);
  assert.throws(chain([x], [y, u], [0, 128, 192], [1]), /output 0 lies over output 1/);
});

Deno.test("load() refuses every truncated program", () => {
  const good = sampleProgram().bytes;
  for (let n = 0; n < good.length; n++) {
    assert.throws(() => load(good.slice(0, n)), NativeError, `${n} bytes`);
  }
});

/** Flips a few bits from byte `from` on. */
function damage(
  bytes: Uint8Array<ArrayBuffer>,
  from: number,
  count: number,
  next: () => number,
): Uint8Array<ArrayBuffer> {
  const copy = bytes.slice();
  for (let k = 0; k < count; k++) {
    copy[from + Math.floor(next() * (copy.length - from))]! ^= 1 << Math.floor(next() * 8);
  }
  return copy;
}

Deno.test("a damaged program, or damaged integers, of any operation are refused or do no harm", async () => {
  const next = generator(9), seen = { refused: 0, failed: 0, ran: 0 };
  for (const { kind, ins, outs, attrs, updates } of cases()) {
    const { program, arena, at } = prepare(kind, ins, outs, attrs, updates);
    using memory = arena;
    const header = program.bytes.length - 8 - 16 * (ins.length + outs.length) - 8 * attrs.length;
    for (let i = 0; i < 60; i++) {
      const numbers = i % 3 === 0;
      const bytes = numbers ? program.bytes : damage(program.bytes, i % 2 ? header : 24, 1 + i % 3, next);
      ins.forEach((data, k) => {
        const whole = new Uint8Array(data.buffer);
        memory.write(
          at[k]!,
          numbers && data instanceof Int32Array && data.length ? damage(whole, 0, 1, next) : whole,
        );
      });
      try {
        using loaded = LoadedProgram.load({ ...program, bytes });
        using group = Group.create(1, 5);
        await device().submit(loaded, { arena }, ONE, { groups: onEveryAxis(group, 0) }).done;
        seen.ran++;
      } catch (e) {
        if (!(e instanceof NativeError)) throw e;
        seen[e.status === STATUS.FAILED ? "failed" : "refused"]++;
      }
    }
  }
  for (const [what, count] of Object.entries(seen)) assert.ok(count > 100, `${count} ${what}`);
});
