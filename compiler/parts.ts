/** What a joined operation (`join.ts`) stands for: a profile that was measured without it has seconds of these. */
import type { Attr, OpKind } from "../ir/op.ts";
import type { Work } from "../ir/program.ts";

/** None for an operation that stands for itself. */
export function partsOf({ kind, attrs, elements, widths }: Work): readonly Work[] {
  const part = (kind: OpKind, attrs: readonly Attr[], ...operands: readonly number[]): Work => ({
    kind,
    attrs,
    elements: operands.map((i) => elements[i]!),
    widths: operands.map((i) => widths[i]!),
  });
  switch (kind) {
    case "matmul2":
    case "matmul3": {
      const count = kind === "matmul2" ? 2 : 3, [rows] = attrs as [Attr], biased = attrs[count + 3] === 1;
      return Array.from({ length: count }, (_, i) => {
        const bias = biased ? [1 + count + i] : [], y = elements.length - count + i;
        return part("matmul", [rows, attrs[1 + i]!, ...attrs.slice(count + 1)], 0, 1 + i, ...bias, y);
      });
    }
    case "gatedMatmul": {
      const products = [1, 2].map((w) => part("matmul", [...attrs, 0], 0, w, 3));
      return [...products, part("swiglu", [elements[3]!], 3, 3, 3)];
    }
    case "addRmsnorm":
      return [part("pointwise", [], 0, 1, 3), part("rmsnorm", attrs, 3, 2, 4, 5)];
    case "rmsnormGrad": {
      const last = elements.length - 1;
      return [part("rmsnormDx", attrs, 0, 1, 2, 3, last - 1), part("rmsnormDw", attrs, 0, 1, 3, last)];
    }
    case "ropes":
    case "ropeKvWrite": {
      const write = kind === "ropeKvWrite", [rows, heads, kv, width] = attrs as [Attr, Attr, Attr, Attr];
      const positions = write ? 3 : 2, normed = attrs[write ? 8 : 6] === 1, last = elements.length - 1;
      return [0, 1].flatMap((x) => [
        // The statistics are a few numbers; the input stands for what is made of it.
        ...normed ? [part("rmsnorm", [], x, x)] : [],
        part("rope", [rows, x ? kv : heads, width], x, positions, positions + 1, x),
      ]).concat(write ? [part("kvWrite", [rows, kv, width], 1, 2, 5, positions, 6, 7, last)] : []);
    }
    default:
      return [];
  }
}
