/** How many kernels the emulation of GPUs launches for products of `rows` rows in bf16, a line of JSON by operation: EMULATION_LAUNCHES names its log. */
import { storedAs } from "../../../engine/half.ts";
import { type Data, generator, normal, run } from "../harness.ts";

const rows = Number(Deno.args[0]), k = 72, widths = [200, 40, 8], log = Deno.env.get("EMULATION_LAUNCHES")!;
const next = generator(1), numbers = (n: number) => storedAs(normal(n, next), "bf16") as Data;
const x = numbers(rows * k), weights = [...widths, widths[0]!].map((n) => numbers(n * k));
const room = (n: number) => new Uint16Array(rows * n), launched = () => Deno.statSync(log).size;
const found: Record<string, number> = {};
for (
  const [kind, ins, outs, sizes] of [
    ["matmul", [0], [0], [0]],
    ["matmul2", [0, 1], [0, 1], [0, 1]],
    ["matmul3", [0, 1, 2], [0, 1, 2], [0, 1, 2]],
    ["gatedMatmul", [0, 3], [0], [0]],
  ] as const
) {
  const before = launched();
  await run(kind, [x, ...ins.map((i) => weights[i]!)], outs.map((i) => room(widths[i]!)), [
    rows,
    ...sizes.map((i) => widths[i]!),
    k,
    0,
    ...kind === "gatedMatmul" ? [] : [0],
  ]);
  found[kind] = launched() - before;
}
console.log(JSON.stringify(found));
Deno.exit(0);
