/**
 * Products of a decode step, 1 to 32 rows on one thread, beside other libraries: ours and theirs in turn, one JSON line per size
 * and number of rows, in microseconds for all products of a step (every weight warm by itself, as each library keeps it).
 *
 *     deno run -A bench/few_rows.ts [--size S|M] [--rows 1,2,4,8,16,32] [--rounds 5]
 *
 * BATON_PEER_PYTHON is the Python that has numpy (OpenBLAS) and torch (oneDNN, MKL), python3 by default; BATON_BLIS is the path
 * of a libblis.so. What is not there is left out. Times are the shortest: a neighbour on the machine must not lower the bar.
 */
import { parseArgs } from "node:util";
import { describe, Device } from "../ffi/device.ts";
import { benchConfig, type Size } from "./cases.ts";

const { values: flags } = parseArgs({
  options: {
    size: { type: "string", default: "S" },
    rows: { type: "string", default: "1,2,4,8,16,32" },
    rounds: { type: "string", default: "5" },
  },
});
const c = benchConfig(flags.size as Size), kv = c.kvHeads * c.headDim;
/** [outputs, inputs, how many of them a step has]. */
const SHAPES = [
  [c.hidden, c.hidden, 2 * c.layers],
  [kv, c.hidden, 2 * c.layers],
  [c.intermediate, c.hidden, 2 * c.layers],
  [c.hidden, c.intermediate, c.layers],
  [c.vocab, c.hidden, 1],
] as const;

/** The peers' process: a line with a shape in, a line with seconds by library out. */
class Peers {
  readonly #process: Deno.ChildProcess;
  readonly #in: WritableStreamDefaultWriter<Uint8Array>;
  readonly #out: ReadableStreamDefaultReader<string>;
  #rest = "";

  constructor() {
    this.#process = new Deno.Command(Deno.env.get("BATON_PEER_PYTHON") ?? "python3", {
      args: [new URL("few_rows_peer.py", import.meta.url).pathname],
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
      env: { OMP_NUM_THREADS: "1", OPENBLAS_NUM_THREADS: "1", MKL_NUM_THREADS: "1", BLIS_NUM_THREADS: "1" },
    }).spawn();
    this.#in = this.#process.stdin.getWriter();
    this.#out = this.#process.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  async seconds(m: number, n: number, k: number): Promise<Record<string, number>> {
    try {
      await this.#in.write(new TextEncoder().encode(`${m} ${n} ${k}\n`));
      while (!this.#rest.includes("\n")) {
        const { value, done } = await this.#out.read();
        if (done) return {};
        this.#rest += value;
      }
    } catch {
      return {}; // there is no such Python
    }
    const end = this.#rest.indexOf("\n"), line = this.#rest.slice(0, end);
    this.#rest = this.#rest.slice(end + 1);
    return JSON.parse(line);
  }

  async close(): Promise<void> {
    await this.#in.close().catch(() => {});
    await this.#process.status;
  }
}

/** The shortest of some runs of about half a millisecond, as theirs. */
function ours(m: number, n: number, k: number): number {
  let best = Infinity, calls = 1;
  for (let i = 0; i < 12; i++) {
    best = Math.min(best, device.productSeconds("forward", m, n, k, calls));
    calls = Math.max(1, Math.min(200, Math.floor(5e-4 / best)));
  }
  return best;
}

using device = Device.open({ threads: 1 });
const peers = new Peers();
console.log(JSON.stringify({ size: flags.size, isa: describe().isa }));
for (const m of flags.rows.split(",").map(Number)) {
  const micros: Record<string, number> = {};
  for (const [n, k, count] of SHAPES) {
    const best: Record<string, number> = {};
    const keep = (name: string, s: number) => best[name] = Math.min(best[name] ?? Infinity, s);
    for (let round = 0; round < Number(flags.rounds); round++) {
      keep("baton", ours(m, n, k));
      for (const [name, s] of Object.entries(await peers.seconds(m, n, k))) keep(name, s);
    }
    for (const [name, s] of Object.entries(best)) micros[name] = (micros[name] ?? 0) + 1e6 * count * s;
  }
  const rounded = Object.entries(micros).map(([name, t]) => [name, Number(t.toPrecision(3))]);
  const { baton, ...others } = micros, fastest = Math.min(...Object.values(others));
  const ratio = fastest < Infinity ? { ratio: Number((fastest / baton!).toPrecision(3)) } : {};
  console.log(JSON.stringify({ rows: m, ...Object.fromEntries(rounded), ...ratio }));
}
await peers.close();
