/** Operations in which the ranks of an axis meet: the communication of tensor, data and pipeline parallelism. */
import { type Attr, AXES, type Axis, type Value } from "../ir/op.ts";
import { Recorder } from "./recorder.ts";
import { rowsOf, size, widthOf } from "./shape.ts";

/** How operations name an axis. */
export const axisNumber = (axis: Axis): number => AXES.indexOf(axis);

export class Collectives extends Recorder {
  /** Gathered rows that every rank goes on with in the same way: see {@link allGatherRows}. */
  readonly alike = new Set<Value>();

  /** The sum over the ranks of an axis, in the place of x. */
  allReduce(x: Value, axis: Axis): Value {
    const y = this.value("allReduce", x.shape, { dtype: x.dtype, place: x.place });
    this.emit("allReduce", [x], [y], [size(x.shape), axisNumber(axis)]);
    return y;
  }

  /**
   * All `rows` rows, of which x is this rank's.
   *
   * @param o.alike every rank computes the same with them, so that their gradient is whole on every rank; it is a partial sum
   * otherwise
   */
  allGatherRows(x: Value, rows: Attr, axis: Axis, o: { readonly alike?: boolean } = {}): Value {
    const width = widthOf(x.shape), attrs = [rows, width, axisNumber(axis)];
    const y = this.one("allGatherRows", [x], [rows, width], attrs);
    if (o.alike) this.alike.add(y);
    return y;
  }

  /** This rank's rows of the sum over ranks. */
  reduceScatterRows(x: Value, own: Attr, axis: Axis): Value {
    return this.one("reduceScatterRows", [x], [own, widthOf(x.shape)], rowAttrs(x, axis));
  }

  /** This rank's rows. */
  ownRows(x: Value, own: Attr, axis: Axis): Value {
    return this.one("ownRows", [x], [own, widthOf(x.shape)], rowAttrs(x, axis));
  }

  /** Rows of `width` columns, of which x is this rank's from column `from`. */
  allGatherColumns(x: Value, width: number, from: number, axis: Axis): Value {
    const rows = rowsOf(x.shape), to = from + widthOf(x.shape);
    return this.one("allGatherColumns", [x], [rows, width], [rows, width, from, to, axisNumber(axis)]);
  }
}

const rowAttrs = (x: Value, axis: Axis): Attr[] => [rowsOf(x.shape), widthOf(x.shape), axisNumber(axis)];
