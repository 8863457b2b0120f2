/**
 * What a CUDA compiler made of kernels, which is all that can be said of their speed without a GPU: registers, spills, and what the
 * largest loop of each consists of. `deno run -A tools/sass.ts cuda/gpu/kernels/flash_forward.cu [REGEX] [--arch 90a]`
 */
import { parseArgs } from "node:util";
import { dirname, join } from "node:path";
import { findToolkit, KERNEL_FLAGS } from "../ffi/build_cuda.ts";

/** What is shown of a loop: how often its most frequent instructions occur. */
const SHOWN = 14;

interface Loop {
  readonly instructions: number;
  readonly counts: ReadonlyMap<string, number>;
}

async function output(program: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args }).output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  if (!success) {
    throw new Error(`Cannot run ${program}: it ended with an error\n${decode(stderr)}${decode(stdout)}`);
  }
  return decode(stdout) + decode(stderr);
}

/** Instructions of a kernel's text, and where branches lead. */
function largestLoop(text: string): Loop | null {
  const lines: string[] = [], labels = new Map<string, number>();
  for (const line of text.split("\n")) {
    const label = /^(\.L_x_\d+):/.exec(line)?.[1], code = /^\s+\/\*[0-9a-f]{4,}\*\/\s+(.*?);/.exec(line)?.[1];
    if (label) labels.set(label, lines.length);
    if (code) lines.push(code.replace(/^@!?U?PT?\d* /, ""));
  }
  let from = 0, to = -1;
  lines.forEach((line, i) => {
    const target = labels.get(/BRA.*?(\.L_x_\d+)/.exec(line)?.[1] ?? "");
    if (target !== undefined && target < i && i - target > to - from) [from, to] = [target, i];
  });
  if (to < 0) return null;
  const kinds = lines.slice(from, to + 1).map((line) => /^[A-Z0-9]+/.exec(line)?.[0] ?? "?");
  const counts = [...Map.groupBy(kinds, (kind) => kind)].map(([kind, all]) => [kind, all.length] as const);
  return { instructions: kinds.length, counts: new Map(counts.sort(([, a], [, b]) => b - a)) };
}

async function main(): Promise<void> {
  const { values, positionals: [source, pattern = "."] } = parseArgs({
    options: { arch: { type: "string", default: "90a" } },
    allowPositionals: true,
  });
  const toolkit = findToolkit();
  if (typeof toolkit === "string") throw new Error(`Cannot compile: ${toolkit}`);
  if (!source) throw new Error("Cannot compile: no source is named, give one of cuda/gpu/kernels");
  const cubin = await Deno.makeTempFile({ suffix: ".cubin" });
  try {
    const includes = toolkit.includes.map((folder) => `-I${folder}`), arch = `-arch=sm_${values.arch}`;
    const flags = [...KERNEL_FLAGS, arch, ...includes, "-cubin", "-Xptxas", "-v", "-o", cubin];
    const log = await output(toolkit.nvcc, ...flags, source);
    const text = await output(join(dirname(toolkit.nvcc), "nvdisasm"), "-c", cubin);
    for (const section of text.split("\n.text.").slice(1)) {
      const symbol = section.slice(0, section.indexOf(":")),
        name = (await output("c++filt", symbol)).trim();
      if (!new RegExp(pattern).test(name)) continue;
      const [, usage = ""] = log.split(`Compiling entry function '${symbol}'`);
      const spills = /(\d+) bytes spill stores/.exec(usage)?.[1],
        registers = /Used (\d+) registers/.exec(usage)?.[1];
      console.log(
        name.replace(/^void baton::/, "").replaceAll("(anonymous namespace)::", "").replace(
          /\([^()]*\)$/,
          "",
        ),
      );
      console.log(`  ${registers} registers, ${spills} bytes spilled`);
      const loop = largestLoop(section);
      if (!loop) continue;
      const shown = [...loop.counts].slice(0, SHOWN).map(([kind, n]) => `${kind} ${n}`).join(", ");
      console.log(`  largest loop: ${loop.instructions} instructions: ${shown}`);
    }
  } finally {
    await Deno.remove(cubin);
  }
}

if (import.meta.main) {
  await main().catch((error: Error) => {
    console.error(error.message);
    Deno.exit(1);
  });
}
