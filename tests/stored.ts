/** The layout of a weight in memory by its definition (`ir/op.ts`), for tests to compare with. */
import { PANEL, panelElements } from "../ir/op.ts";
import type { Parameter } from "../ir/program.ts";

type Laid = Pick<Parameter, "shape" | "layout">;

/** Where an element of a row-major array lies. */
function placesOf({ shape, layout }: Laid): { readonly places: number[]; readonly elements: number } {
  const [n = 1, k = 1] = shape, all = Array.from({ length: n * k }, (_, i) => i);
  if (layout === "rows") return { places: all, elements: n * k };
  const place = (row: number, column: number) => (row >> 4) * PANEL * k + PANEL * column + (row & 15);
  return { places: all.map((i) => place(Math.floor(i / k), i % k)), elements: panelElements(n, k) };
}

export function toStored(p: Laid, values: Float32Array): Float32Array<ArrayBuffer> {
  const { places, elements } = placesOf(p), stored = new Float32Array(elements);
  places.forEach((at, i) => stored[at] = values[i]!);
  return stored;
}
export const fromStored = (p: Laid, stored: Float32Array): Float32Array<ArrayBuffer> =>
  Float32Array.from(placesOf(p).places, (at) => stored[at]!);
