/** A second reading of `docs/program-format.md`. */
import assert from "node:assert/strict";
import { SIZE_ATTRIBUTES } from "../../compiler/operands.ts";
import { DTYPES, OPCODE, type OpKind, SEGMENTS, SYMBOLS } from "../../ir/op.ts";

const KINDS = new Map(Object.entries(OPCODE).map(([kind, code]) => [code as number, kind as OpKind]));

/** Reads a program back by `docs/program-format.md`. */
export function decode(bytes: Uint8Array<ArrayBuffer>) {
  const view = new DataView(bytes.buffer);
  let at = 0;
  const u16 = () => view.getUint16((at += 2) - 2, true), u32 = () => view.getUint32((at += 4) - 4, true);
  const u64 = () => Number(view.getBigUint64((at += 8) - 8, true)),
    f64 = () => view.getFloat64((at += 8) - 8, true);
  const [magic, version, segmentCount, symbolCount, operations] = [u32(), u32(), u32(), u32(), u32()];
  assert.equal(u32(), 0);
  const segments = Array.from({ length: segmentCount }, u64),
    symbols = Array.from({ length: symbolCount }, u32);
  if (symbolCount % 2) u32();
  const ops = Array.from({ length: operations }, () => {
    const kind = KINDS.get(u16())!, operands = u16(), attributes = u16();
    assert.equal(u16(), 0);
    return {
      kind,
      operands: Array.from(
        { length: operands },
        () => ({ segment: SEGMENTS[u16()]!, dtype: DTYPES[u16()]!, offset: 64 * u32(), bytes: u64() }),
      ),
      attributes: Array.from(
        { length: attributes },
        (_, i) => SIZE_ATTRIBUTES[kind].includes(i) ? { symbol: SYMBOLS[u32()]!, times: u32() } : f64(),
      ),
    };
  });
  assert.equal(at, bytes.length);
  return { magic, version, segments, symbols, ops };
}
