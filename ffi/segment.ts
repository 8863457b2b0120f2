/** Device memory. */
import type { Segment } from "../ir/op.ts";
import { check, create } from "./errors.ts";
import { native } from "./library.ts";

/** Where memory is: near a device, on the host where devices copy from and to fast, or inside other memory. */
export type Where =
  | { readonly near: { readonly id: number } }
  | "host"
  | { readonly of: DeviceSegment; readonly offset: number };

const ANYWHERE = 0, HOST = 0xffffffff;

/** Device memory: zero until written. On the CPU only what is touched costs memory. */
export class DeviceSegment implements Disposable {
  readonly id: number;

  /**
   * @param where Near the first device that was opened by default; the CPU has one memory.
   * @throws NativeError when there is no memory.
   */
  constructor(readonly bytes: number, where?: Where) {
    if (typeof where === "object" && "of" in where) {
      const { of, offset } = where;
      this.id = create(
        (id) => native().baton_segment_view(of.id, BigInt(offset), BigInt(bytes), id),
        `view ${bytes} bytes at ${offset} of a segment of ${of.bytes}`,
      );
    } else {
      const near = where === undefined ? ANYWHERE : where === "host" ? HOST : where.near.id;
      this.id = create(
        (id) => native().baton_segment_create(near, BigInt(bytes), id),
        `allocate ${bytes} bytes`,
      );
    }
  }

  /** A part of this memory, which lives as long as its last view. `offset` is a multiple of 64. */
  view(offset: number, bytes: number): DeviceSegment {
    return new DeviceSegment(bytes, { of: this, offset });
  }

  /** Copies `data` to `offset` at once, whatever is queued. */
  write(offset: number, data: ArrayBufferView): void {
    const status = native().baton_segment_write(
      this.id,
      BigInt(offset),
      data as ArrayBufferView<ArrayBuffer>,
      BigInt(data.byteLength),
    );
    check(status, `write ${data.byteLength} bytes at ${offset} of a segment of ${this.bytes}`);
  }

  /** Fills `into` from `offset` at once; await what writes there first. */
  read<T extends ArrayBufferView<ArrayBuffer>>(offset: number, into: T): T {
    const status = native().baton_segment_read(this.id, BigInt(offset), into, BigInt(into.byteLength));
    check(status, `read ${into.byteLength} bytes at ${offset} of a segment of ${this.bytes}`);
    return into;
  }

  /** Sets `bytes` bytes from `offset` on to `byte`. */
  fill(offset: number, bytes: number, byte: number): void {
    const status = native().baton_segment_fill(this.id, BigInt(offset), BigInt(bytes), byte);
    check(status, `fill ${bytes} bytes at ${offset} of a segment of ${this.bytes}`);
  }

  /** Queued jobs that use it keep the memory until they end. */
  [Symbol.dispose](): void {
    check(native().baton_segment_destroy(this.id), "free a segment");
  }
  dispose(): void {
    this[Symbol.dispose]();
  }
}

/** Memory bound to a program's segments; one that the program needs no byte of may be left out. */
export type Segments = Readonly<Partial<Record<Segment, DeviceSegment>>>;

/** `count` runs of `bytes` bytes, the strides apart, from one memory to another. All are multiples of 2, and of 4 where f32 numbers are blended. */
export interface SegmentMove {
  readonly from: DeviceSegment;
  readonly to: DeviceSegment;
  readonly fromOffset: number;
  readonly toOffset: number;
  readonly bytes: number;
  readonly count: number;
  readonly fromStride: number;
  readonly toStride: number;
  /** From bf16 to f32: `bytes` are those that are written, and half as many are read. */
  readonly widen?: boolean;
}

const MOVE_BYTES = 64;

/** The array of `baton_move` that `baton_copy` takes. */
export function encodeMoves(moves: readonly SegmentMove[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(MOVE_BYTES * moves.length), view = new DataView(bytes.buffer);
  moves.forEach((m, i) => {
    const at = MOVE_BYTES * i, sizes = [m.fromOffset, m.toOffset, m.bytes, m.count, m.fromStride, m.toStride];
    view.setUint32(at, m.from.id, true);
    view.setUint32(at + 4, m.to.id, true);
    sizes.forEach((n, k) => view.setBigUint64(at + 8 + 8 * k, BigInt(n), true));
    view.setUint32(at + 56, Number(m.widen ?? false), true);
  });
  return bytes;
}

/** Why moves were refused: the first that does not fit. */
export function misplaced(moves: readonly SegmentMove[], weight = 1): string | undefined {
  for (const [i, m] of moves.entries()) {
    const half = m.widen ? 2 : 1, unit = weight === 1 && !m.widen ? 2 : 4;
    const end = (offset: number, stride: number, bytes: number) =>
      offset + Math.max(0, m.count - 1) * stride + bytes;
    const numbers = [half * m.fromOffset, m.toOffset, m.bytes, half * m.fromStride, m.toStride];
    if (numbers.some((n) => n % unit !== 0)) return `move ${i} is not in multiples of ${unit} bytes`;
    if (m.count > 1 && m.toStride < m.bytes) return `move ${i} writes runs over each other`;
    for (
      const [s, last] of [
        [m.from, end(m.fromOffset, m.fromStride, m.bytes / half)],
        [m.to, end(m.toOffset, m.toStride, m.bytes)],
      ] as const
    ) {
      if (last > s.bytes) return `move ${i} ends at ${last} of a segment of ${s.bytes}`;
    }
  }
}
