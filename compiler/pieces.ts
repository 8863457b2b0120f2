/** Where the elements of a rank's piece are: in memory, and in the Hugging Face tensor that it is a piece of. */
import { BYTES, PANEL } from "../ir/op.ts";
import type { LocalParameter, Range, Slice } from "./layout.ts";

/** A rectangle of a tensor, in the coordinates of the whole; a vector is one column. */
export interface Box {
  readonly rows: Range;
  readonly columns: Range;
}

/** `count` runs of `bytes`, from one segment into another. */
export interface Run {
  /** Where the first one begins, in bytes. */
  readonly source: number;
  readonly target: number;
  readonly bytes: number;
  readonly count: number;
  /** From the begin of a run to that of the next; `bytes` where there is only one. */
  readonly sourceStride: number;
  readonly targetStride: number;
}

const length = (r: Range): number => r.to - r.from;

/** What a rank holds of a parameter. */
export function boxOf({ global, slice }: LocalParameter): Box {
  const range = (dim: 0 | 1) => slice?.dim === dim ? slice : { from: 0, to: global[dim] ?? 1 };
  return { rows: range(0), columns: range(1) };
}

/**
 * The copies that bring a box, which both pieces contain, from one piece's place to the other's, and write nothing else. Places in a
 * source of another type are counted as if its elements were as wide as the target's.
 */
export function runsBetween(source: LocalParameter, target: LocalParameter, box: Box): Run[] {
  const each = BYTES[target.dtype];
  const begins = { source: source.offset / BYTES[source.dtype] * each, target: target.offset };
  const from = boxOf(source), to = boxOf(target), rows = length(box.rows), columns = length(box.columns);
  const widths = { source: length(from.columns), target: length(to.columns) };
  const first = { source: box.rows.from - from.rows.from, target: box.rows.from - to.rows.from };
  const skipped = {
    source: box.columns.from - from.columns.from,
    target: box.columns.from - to.columns.from,
  };
  if (target.layout === "rows") {
    const at = (side: "source" | "target") => each * (first[side] * widths[side] + skipped[side]);
    return [strided({
      source: begins.source + at("source"),
      target: begins.target + at("target"),
      bytes: each * columns,
      count: rows,
      sourceStride: each * widths.source,
      targetStride: each * widths.target,
    })];
  }
  const panel = each * PANEL, runs: Run[] = [];
  for (let row = 0, lanes; row < rows; row += lanes) {
    const lane = { source: (first.source + row) % PANEL, target: (first.target + row) % PANEL };
    lanes = Math.min(PANEL - lane.source, PANEL - lane.target, rows - row);
    const at = (side: "source" | "target") =>
      panel * ((first[side] + row - lane[side]) / PANEL * widths[side] + skipped[side]) + each * lane[side];
    const start = { source: begins.source + at("source"), target: begins.target + at("target") };
    if (lanes === PANEL) {
      const count = Math.floor((rows - row) / PANEL);
      const strides = { sourceStride: panel * widths.source, targetStride: panel * widths.target };
      runs.push(strided({ ...start, ...strides, bytes: panel * columns, count }));
      lanes = count * PANEL;
      continue;
    }
    const run = { ...start, bytes: each * lanes, count: columns, sourceStride: panel, targetStride: panel };
    // Where pieces start at different lanes, every panel falls in two: each half goes on in the next panel, in turn.
    const before = runs.at(-2), longer = before && joined(before, run);
    if (longer) runs.splice(-2, 1);
    runs.push(longer || strided(run));
  }
  return runs;
}

/** Runs that lie one behind the other on both sides are one run. */
export function strided(run: Run): Run {
  const { bytes, count, sourceStride, targetStride } = run;
  const dense = bytes === sourceStride && bytes === targetStride;
  return count > 1 && !dense
    ? run
    : { ...run, bytes: bytes * count, count: 1, sourceStride: bytes * count, targetStride: bytes * count };
}

/** Two runs as one with more repetitions, where the second one goes on with the strides of the first. */
export function joined<T extends Run>(a: T, b: Run): T | null {
  if (a.bytes !== b.bytes) return null;
  const ahead = { source: b.source - a.source, target: b.target - a.target };
  if (a.count === 1 && b.count === 1) {
    if (ahead.source < a.bytes || ahead.target < a.bytes) return null;
    return { ...a, count: 2, sourceStride: ahead.source, targetStride: ahead.target };
  }
  const strides = a.count > 1 ? a : b;
  const { sourceStride, targetStride } = strides;
  const goesOn = ahead.source === a.count * sourceStride && ahead.target === a.count * targetStride;
  const alike = b.count === 1 || (b.sourceStride === sourceStride && b.targetStride === targetStride);
  return goesOn && alike ? { ...a, count: a.count + b.count, sourceStride, targetStride } : null;
}

/** Some rows of a parameter, as if they were all of it. */
export interface Slab {
  /** The rank's piece of these rows. */
  readonly piece: LocalParameter;
  /** Elements of the rank's piece before it. */
  readonly first: number;
}

/**
 * What a rank holds of rows from … to of the whole; null for nothing. Where a piece is in panels, both ends have to be at the
 * beginning of one, or at the piece's own.
 */
export function slabOf(p: LocalParameter, { from, to }: Range): Slab | null {
  const { rows, columns } = boxOf(p), begin = Math.max(rows.from, from), end = Math.min(rows.to, to);
  if (begin >= end) return null;
  const width = length(columns), height = end - begin, first = (begin - rows.from) * width;
  const [, ...inner] = p.global, [, ...own] = p.shape;
  const slice: Slice | null = p.slice?.dim === 0 ? { dim: 0, from: begin - from, to: end - from } : p.slice;
  const elements = p.layout === "panels" ? Math.ceil(height / PANEL) * PANEL * width : height * width;
  return { first, piece: { ...p, slice, global: [to - from, ...inner], shape: [height, ...own], elements } };
}

/** Rows of the whole of which a rank holds a piece. */
export interface HeldRows {
  readonly own: Range;
  /** The same with all rows of the panels that they are in. */
  readonly padded: Range;
  /** Whether these are the same: then {@link slabOf} takes the rows as they are. */
  readonly whole: boolean;
}

/** What a rank holds of some rows; null for nothing. */
export function rowsHeld(p: LocalParameter, { from, to }: Range): HeldRows | null {
  const { rows } = boxOf(p), own = { from: Math.max(rows.from, from), to: Math.min(rows.to, to) };
  if (own.from >= own.to) return null;
  if (p.layout === "rows") return { own, padded: own, whole: true };
  const padded = {
    from: rows.from + Math.floor((own.from - rows.from) / PANEL) * PANEL,
    to: Math.min(rows.to, rows.from + Math.ceil((own.to - rows.from) / PANEL) * PANEL),
  };
  return { own, padded, whole: padded.from === own.from && padded.to === own.to };
}

/** Some rows of the whole, row-major in all columns. */
interface WholeRows {
  readonly from: number;
  readonly values: Float32Array;
}

/** Copies a rank's own columns of some rows from one array to another. */
export function copyRows(p: LocalParameter, source: WholeRows, target: WholeRows, rows: Range): void {
  const width = p.global[1] ?? 1, { columns } = boxOf(p);
  for (let row = rows.from; row < rows.to; row++) {
    const from = (row - source.from) * width, to = (row - target.from) * width;
    target.values.set(source.values.subarray(from + columns.from, from + columns.to), to + columns.from);
  }
}

/** Columns handled at a time: a panel's rows of them stay in the first cache while they are interleaved. */
const BLOCK = 256;

/** Visits a piece by runs of a row: `step` elements apart as stored, next to each other in the whole. */
function eachRow(
  p: LocalParameter,
  visit: (whole: number, stored: number, step: number, length: number) => void,
): void {
  const { rows, columns } = boxOf(p),
    width = p.global[1] ?? 1,
    height = length(rows),
    local = length(columns);
  const start = rows.from * width + columns.from;
  if (p.layout === "rows") {
    if (local === width) visit(start, 0, 1, height * width);
    else for (let row = 0; row < height; row++) visit(start + row * width, row * local, 1, local);
    return;
  }
  for (let panel = 0; panel < height; panel += PANEL) {
    for (let block = 0; block < local; block += BLOCK) {
      const count = Math.min(BLOCK, local - block);
      for (let row = panel; row < Math.min(panel + PANEL, height); row++) {
        visit(start + row * width + block, panel * local + block * PANEL + row - panel, PANEL, count);
      }
    }
  }
}

/** Numbers, or the bits of bf16 ones. */
export type Elements = Float32Array | Uint16Array;

function checkLengths(p: LocalParameter, whole: Elements, stored: Elements): void {
  const expected = p.global.reduce((n, d) => n * d, 1);
  if (whole.length === expected && stored.length === p.elements) return;
  throw new RangeError(
    `Cannot convert ${p.name}: ${whole.length} values of the whole and ${stored.length} stored, give ${expected} and ${p.elements}`,
  );
}

/** Puts a rank's piece of a Hugging Face tensor (`whole`, row-major) where its programs read it; padding is left alone. */
export function writeLocal<T extends Elements>(p: LocalParameter, whole: T, stored: T): void {
  checkLengths(p, whole, stored);
  eachRow(p, (from, to, step, length) => {
    if (step === 1) stored.set(whole.subarray(from, from + length), to);
    else for (let k = 0; k < length; k++) stored[to + step * k] = whole[from + k]!;
  });
}

/** The inverse of {@link writeLocal}: puts a rank's piece into its place in the whole, and leaves the rest of it alone. */
export function readLocal<T extends Elements>(p: LocalParameter, stored: T, whole: T): void {
  checkLengths(p, whole, stored);
  eachRow(p, (to, from, step, length) => {
    if (step === 1) whole.set(stored.subarray(from, from + length), to);
    else for (let k = 0; k < length; k++) whole[to + k] = stored[from + step * k]!;
  });
}
