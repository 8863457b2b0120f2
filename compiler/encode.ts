/** Program bytes: `docs/program-format.md`. Operand order and attributes are those of `ir/op.ts`. */
import {
  DTYPES,
  type Maxima,
  type Op,
  OPCODE,
  type Place,
  type Segment,
  SEGMENTS,
  SYMBOLS,
  type Value,
} from "../ir/op.ts";
import { SIZE_ATTRIBUTES } from "./operands.ts";
import { asDim, bytesOf } from "./shape.ts";

export const MAGIC = 0x4e544142;
export const FORMAT_VERSION = 5;

/**
 * @param placeOf the place of a value, fixed or planned
 * @throws RangeError when an offset is no multiple of 64 or that multiple, or a size, has more than 32 bits
 */
export function encode(
  ops: readonly Op[],
  placeOf: (v: Value) => Place,
  segmentBytes: Readonly<Record<Segment, number>>,
  maxima: Maxima,
): Uint8Array<ArrayBuffer> {
  const symbolBytes = 8 * Math.ceil(SYMBOLS.length / 2);
  const opBytes = (op: Op) => 8 + 16 * (op.ins.length + op.outs.length) + 8 * op.attrs.length;
  const bytes = new Uint8Array(
    24 + 8 * SEGMENTS.length + symbolBytes + ops.reduce((n, op) => n + opBytes(op), 0),
  );
  const view = new DataView(bytes.buffer);
  let at = 0;
  const u16 = (x: number) => view.setUint16((at += 2) - 2, x, true);
  const u32 = (x: number) => view.setUint32((at += 4) - 4, x, true);
  const u64 = (x: number) => view.setBigUint64((at += 8) - 8, BigInt(x), true);
  const f64 = (x: number) => view.setFloat64((at += 8) - 8, x, true);

  [MAGIC, FORMAT_VERSION, SEGMENTS.length, SYMBOLS.length, ops.length, 0].forEach(u32);
  SEGMENTS.forEach((s) => u64(segmentBytes[s]));
  SYMBOLS.forEach((s) => u32(maxima[s]));
  at = 24 + 8 * SEGMENTS.length + symbolBytes;
  for (const op of ops) {
    [OPCODE[op.kind], op.ins.length + op.outs.length, op.attrs.length, 0].forEach(u16);
    for (const v of [...op.ins, ...op.outs]) {
      const { segment, offset } = placeOf(v);
      if (offset % 64 !== 0 || offset / 64 > 0xffffffff) {
        throw new RangeError(
          `Cannot encode ${op.kind}: ${v.name} is at byte ${offset}, not a multiple of 64 below 256 GiB`,
        );
      }
      u16(SEGMENTS.indexOf(segment));
      u16(DTYPES.indexOf(v.dtype));
      u32(offset / 64);
      u64(bytesOf(v, maxima));
    }
    op.attrs.forEach((a, i) => {
      if (!SIZE_ATTRIBUTES[op.kind].includes(i)) return f64(a as number);
      const { symbol, times } = asDim(a);
      if (times > 0xffffffff) {
        throw new RangeError(`Cannot encode ${op.kind}: attribute ${i} is ${times}, more than 32 bits`);
      }
      u32(SYMBOLS.indexOf(symbol));
      u32(times);
    });
  }
  return bytes;
}
