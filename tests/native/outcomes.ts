/** Every case on one library, in a process of its own, and how far two libraries are apart. */

/** Products of every kind, the head's among them. */
export const PRODUCTS = [
  "matmul",
  "matmulDx",
  "matmulDw",
  "matmul2",
  "matmul3",
  "gatedMatmul",
  "linearLogprob",
  "linearLogprobGrad",
  "linearLogprobDx",
] as const;

/** Paths of the tests of single operations, which pass on any backend. */
export const operationTests = (): string[] => {
  const here = new URL("./", import.meta.url).pathname;
  return [...Deno.readDirSync(here)].map(({ name }) => name).filter((name) => /^op_\w+_test\.ts$/.test(name))
    .sort().map((name) => here + name);
};

/** What a case gave: the bits of its outputs. */
export interface Outcome {
  readonly kind: string;
  readonly attrs: readonly unknown[];
  readonly words: readonly (readonly number[])[];
}

/**
 * @param env BATON_LIBRARY or BATON_GPUS, and BATON_CUDA_MATH.
 * @param kinds all by default; `--half` first for the cases with bf16 operands
 */
export async function outcomes(
  env: Record<string, string>,
  kinds: readonly string[] = [],
): Promise<Outcome[]> {
  const script = new URL("./scripts/run_cases.ts", import.meta.url).href;
  const args = ["run", "-A", "--no-check", script, ...kinds];
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    env: { NO_COLOR: "1", ...env },
  }).output();
  if (!success) throw new Error(new TextDecoder().decode(stderr));
  return new TextDecoder().decode(stdout).trim().split("\n").map((line) => JSON.parse(line));
}

const isNaN = (word: number): boolean => (word & 0x7fffffff) > 0x7f800000;

/** How far outputs are from what was expected. */
export interface Distance {
  readonly name: string;
  /** Elements whose bits differ; any two NaN are alike. */
  readonly bits: number;
  /** ‖actual − expected‖ / ‖expected‖ over finite floats; NaN when one side has a NaN and the other has none. */
  readonly relative: number;
}

export function distances(actual: readonly Outcome[], expected: readonly Outcome[]): Distance[] {
  return expected.flatMap(({ kind, attrs, words }, i) =>
    words.map((output, k) => {
      const mine = actual[i]!.words[k]!;
      const bits = output.filter((word, j) => word !== mine[j] && !(isNaN(word) && isNaN(mine[j]!))).length;
      const [x, y] = [mine, output].map((w) => new Float32Array(Uint32Array.from(w).buffer)) as [
        Float32Array,
        Float32Array,
      ];
      let error = 0, norm = 0;
      y.forEach((v, j) => {
        if (output[j] === mine[j] || (isNaN(output[j]!) && isNaN(mine[j]!))) {
          if (Number.isFinite(v)) norm += v * v;
          return;
        }
        error += (v - x[j]!) ** 2, norm += v * v;
      });
      const relative = error === 0 ? 0 : Math.sqrt(error / norm);
      return { name: `${kind}(${attrs.join(",")})[${k}]`, bits, relative };
    })
  );
}
