/** What `deno task gpu` runs, in its order. */
import { ATTENTION, benchParts, MEMORY, PROBE } from "../bench/gpu_parts.ts";
import type { Part } from "../bench/parts.ts";
import { checkParts } from "./gpu_run.ts";

/** What comes before all else, by name: what the machine is, then whether numbers are right, then how fast the important ones are. */
export const FIRST: readonly string[] = [
  "probe: machine",
  "probe: copies",
  "check: operations, fp32",
  "check: operations, bf16 in memory",
  "check: weights in rows, bf16, own kernels",
  "check: golden models",
  "check: golden models in bf16, and parity",
  "check: PPO of two tiny layers, cuda:0 and cuda:0x4",
  ...MEMORY.map(({ name }) => `check: ${name}`),
  "probe: products, bf16, own kernels",
  "probe: products, bf16, cuBLASLt",
  "probe: attention, bf16",
  "probe: attention, own and cuDNN",
  "bench: operations",
  "bench: joined products",
  "bench: train 1.7B",
  "bench: decode 1.7B x64",
  "bench: grpo 1.7B",
  "bench: decode 8B x1",
  "bench: logprob 8B",
  "bench: train 8B",
  "probe: ranks on one GPU, copies",
  "probe: ranks on one GPU, NCCL",
  "check: the same by NCCL, which needs 2.30.3",
  "probe: graphs",
  "check: operations, bf16",
  "check: weights in rows, bf16, cuBLASLt",
];

const named = (kind: string, parts: readonly Part[]) =>
  parts.map((part) => ({ ...part, name: `${kind}: ${part.name.trim()}` }));

/** Peers of what comes first come behind it, then all else, and what is slowest last. */
const place = ({ name }: Part): number => {
  const at = FIRST.indexOf(name), own = name.replace("transformers, ", "");
  if (at >= 0) return at;
  return FIRST.length + (FIRST.includes(own) ? 0 : name.startsWith("check: compute-sanitizer") ? 2 : 1);
};

/**
 * The probe, the checks and the bench, those parts first that are worth most.
 *
 * @param o.python with torch and transformers, or null
 */
export function gpuParts(o: { readonly emulation: boolean; readonly python: string | null }): Part[] {
  const bench = benchParts({ small: o.emulation, python: o.python });
  // The probe and the checks have the parts about attention and about memory already.
  const all = [
    ...named("probe", PROBE),
    ...named("check", checkParts(o.emulation)),
    ...named("bench", bench.filter(({ name }) => ![ATTENTION, ...MEMORY].some((m) => m.name === name))),
  ];
  return all.sort((a, b) => place(a) - place(b));
}
