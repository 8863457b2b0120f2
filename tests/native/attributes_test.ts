/** Programs of one operation whose numbers were changed: what the loader lets through writes nothing but its outputs. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { Group, LoadedProgram, NativeError } from "../../ffi/device.ts";
import { STATUS } from "../../ffi/symbols.ts";
import { SEGMENTS, SYMBOLS } from "../../ir/op.ts";
import { cases } from "./cases.ts";
import { device, ONE, onEveryAxis, prepare } from "./harness.ts";

const HEADER = 24 + 8 * SEGMENTS.length + 8 * Math.ceil(SYMBOLS.length / 2);

/** The bytes of a program of one operation with another number as attribute. */
function changed(bytes: Uint8Array<ArrayBuffer>, attribute: number, value: number): Uint8Array<ArrayBuffer> {
  const copy = bytes.slice(), view = new DataView(copy.buffer);
  const operands = view.getUint16(HEADER + 2, true), count = view.getUint16(HEADER + 4, true);
  const at = HEADER + 8 + 16 * operands + 8 * (attribute % count);
  // A size is (symbol one, times), and a number in a program of these sizes is 0 or above 2⁻³⁰⁰.
  const [symbol, times] = [view.getUint32(at, true), view.getUint32(at + 4, true)];
  if (symbol === 0 && times > 0 && times < 1 << 20) view.setUint32(at + 4, value, true);
  else view.setFloat64(at, value, true);
  return copy;
}

Deno.test("an operation with other numbers is refused, or writes its outputs only", async () => {
  const all = cases(), seen = { refused: 0, failed: 0, ran: 0 };
  const numbers = fc.oneof(fc.constantFrom(0, 1, 2, 3, 15, 16, 17), fc.nat(40));
  const changes = fc.array(fc.tuple(fc.nat(40), numbers), { minLength: 1, maxLength: 2 });
  const property = fc.asyncProperty(fc.nat(all.length - 1), changes, async (i, changes) => {
    const { kind, ins, outs, attrs, updates } = all[i]!;
    const { program, arena, check } = prepare(kind, ins, outs, attrs, updates);
    using memory = arena;
    const bytes = changes.reduce((now, [at, value]) => changed(now, at, value), program.bytes);
    try {
      using loaded = LoadedProgram.load({ ...program, bytes });
      using group = Group.create(1, 5);
      await device().submit(loaded, { arena: memory }, ONE, { groups: onEveryAxis(group, 0) }).done;
      seen.ran++;
    } catch (e) {
      if (!(e instanceof NativeError)) throw e;
      seen[e.status === STATUS.FAILED ? "failed" : "refused"]++;
    }
    check();
  });
  await fc.assert(property, { seed: 7, numRuns: 2500 });
  for (const [what, count] of Object.entries(seen)) assert.ok(count > 100, `${count} ${what}`);
});
