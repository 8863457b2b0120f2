/** The least time that work can take on a GPU: the longer of its arithmetic and of its bytes. */

/** Ceilings measured on one H200; of other cards: BATON_GPU_TFLOPS and BATON_GPU_TBPS. */
const TFLOPS = Number(Deno.env.get("BATON_GPU_TFLOPS") ?? 790),
  TBPS = Number(Deno.env.get("BATON_GPU_TBPS") ?? 4.3);

/** Multiplications and additions, and the fewest bytes that must move. */
export interface Work {
  readonly flops: number;
  readonly bytes: number;
}

export const floorSeconds = ({ flops, bytes }: Work): number =>
  Math.max(flops / (TFLOPS * 1e12), bytes / (TBPS * 1e12));
