/** Records operations and the values between them, and gives places to those that the host can name. */
import {
  type Attr,
  BYTES,
  type DType,
  type Op,
  type OpKind,
  PANEL,
  type Place,
  type Segment,
  type Shape,
  type Value,
} from "../ir/op.ts";
import type { Parameter } from "../ir/program.ts";
import { resultType } from "./dtypes.ts";

/** Beside name and shape; without an offset a value follows those declared before it in its segment. */
interface Declaration {
  readonly dtype?: DType;
  readonly offset?: number;
  /** Bytes of which its segment needs a multiple. */
  readonly line?: number;
}

export class Recorder {
  readonly ops: Op[] = [];
  /** Values at fixed places by port name, "params/model.norm.weight". */
  readonly placed = new Map<string, Value>();
  /** Values through which no gradient flows. */
  readonly detached = new Set<Value>();
  /** Values that `finish` moves to a place in the outputs segment. */
  readonly pinned: (readonly [value: Value, place: Value])[] = [];
  /** Prefix of the names of values, "layers.3". */
  scope = "";
  #nextId = 0;
  readonly #tops = new Map<Segment, number>();

  /** @param reserve bytes set aside for a value when the builder chooses its place */
  constructor(private readonly reserve: (v: Value) => number) {}

  /** A new value; the scope goes before the names of those that the planner places. */
  value(
    name: string,
    shape: Shape,
    o: { readonly dtype?: DType; readonly place?: Place | undefined } = {},
  ): Value {
    const v = { id: this.#nextId++, name, shape, dtype: o.dtype ?? "f32" };
    if (o.place) return { ...v, place: o.place };
    return this.scope ? { ...v, name: `${this.scope}.${name}` } : v;
  }

  /** A value at a fixed place. */
  declare(segment: Segment, name: string, shape: Shape, o: Declaration = {}): Value {
    const port = `${segment}/${name}`;
    if (this.placed.has(port)) throw new Error(`Cannot declare ${port}: it is declared already`);
    const top = this.#tops.get(segment) ?? 0;
    const offset = o.offset ?? top;
    const v = {
      id: this.#nextId++,
      name,
      shape,
      dtype: o.dtype ?? "f32",
      place: { segment, offset },
    } as const;
    const end = offset + this.reserve(v), { line = 1 } = o;
    this.#tops.set(segment, Math.max(top, Math.ceil(end / line) * line));
    this.placed.set(port, v);
    return v;
  }

  /** An input of the program; the same name gives the same value. */
  input(name: string, shape: Shape, dtype: DType = "f32"): Value {
    return this.placed.get(`inputs/${name}`) ?? this.declare("inputs", name, shape, { dtype });
  }

  /** Makes `v` readable by the host as `outputs/NAME`. */
  output(name: string, v: Value): void {
    this.pinned.push([v, this.declare("outputs", name, v.shape, { dtype: v.dtype })]);
  }

  /** Bytes that the declared values of a segment need. */
  segmentBytes(segment: Segment): number {
    return this.#tops.get(segment) ?? 0;
  }

  /** A value with the layout of a parameter, in `params` or `grads`. */
  parameter(p: Parameter, segment: "params" | "grads" = "params"): Value {
    const [n = 1, k = 1] = p.shape;
    const shape: Shape = p.layout === "panels" ? [Math.ceil(n / PANEL), k, PANEL] : p.shape as Shape;
    const dtype = segment === "params" ? p.dtype : p.gradient, each = BYTES[dtype] / BYTES[p.dtype];
    // A cache line of parameters has its gradients in as many elements.
    return this.declare(segment, p.name, shape, { dtype, offset: p.offset * each, line: 64 * each });
  }

  emit(kind: OpKind, ins: readonly Value[], outs: readonly Value[], attrs: readonly Attr[]): void {
    this.ops.push({ kind, ins, outs, attrs });
  }

  /** Emits an operation with one result, of the type that `dtypes.ts` says unless another is given. */
  one(
    kind: OpKind,
    ins: readonly Value[],
    shape: Shape,
    attrs: readonly Attr[],
    dtype: DType = resultType(kind, ins),
  ): Value {
    const out = this.value(kind, shape, { dtype });
    this.emit(kind, ins, [out], attrs);
    return out;
  }
}
