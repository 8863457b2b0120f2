/** Generation by hand, without the engine: one prefill, then decode steps of every slot. */
import type { Binding } from "../../engine/binding.ts";
import { DeviceSegment } from "../../ffi/device.ts";
import { compileDecode, compilePrefill } from "../../compiler/compile.ts";
import { ownRows, PAGE, SAMPLER } from "../../ir/op.ts";
import { MAXIMA, SAMPLING } from "../pure/compiler_fixtures.ts";
import { type ModelRunner, packed, writeBatch } from "./model_runner.ts";

/** Live dims by name; `shard` is each rank's own. */
type Dims = Readonly<Record<"tokens" | "actions" | "sequences", number>>;

/**
 * Prefills prompts, samples `steps` tokens for each, and returns tokens and log-probabilities by sequence, as every tensor shard
 * of the last stage has them.
 *
 * @param stages ranks by pipeline stage and tensor shard
 */
export async function generate(
  stages: readonly (readonly ModelRunner[])[],
  prompts: readonly (readonly number[])[],
  steps: number,
  temperature: number,
) {
  const n = prompts.length,
    longest = Math.max(...prompts.map((p) => p.length)) + steps,
    maxPages = Math.floor(longest / PAGE) + 1,
    cache = { slots: n + 1, pages: n * maxPages, maxPages, maxNew: steps, stops: 0 };
  const batch = packed(prompts), { tokens } = batch.live;
  const maxima = { ...MAXIMA, tokens, actions: tokens, shard: tokens };
  const o = { ...cache, maxima, sampling: { ...SAMPLING, temperature } };
  using memory = new DisposableStack();
  const ranks = stages.map((stage) =>
    stage.map((runner) => {
      const programs = [compilePrefill(runner.shard, o), compileDecode(runner.shard, o)] as const;
      const kv = memory.use(new DeviceSegment(programs[0].segmentBytes.kv));
      const state = memory.use(new DeviceSegment(programs[0].segmentBytes.state));
      // NaN everywhere: what was never written must not be read.
      kv.fill(0, kv.bytes, 0xff);
      const [prefill, decode] = programs.map((program) => runner.bind(program, { kv, state }));
      return { prefill: prefill!, decode: decode!, shard: runner.shard };
    })
  );
  const all = ranks.flat(), last = ranks.at(-1)!, names = ["token", "position", "finished"];
  const step = async (program: "prefill" | "decode", live: Dims) => {
    let x: Float32Array[] = [];
    for (const stage of ranks) {
      const dims = stage.map(({ shard: { tp, rank } }) => {
        const [from, to] = ownRows(live.tokens, rank, tp);
        return { ...live, shard: tp > 1 ? to - from : 0 };
      });
      x.forEach((rows, i) => stage[i]![program].write("inputs/x", rows));
      await Promise.all(stage.map((rank, i) => rank[program].run(dims[i]!)));
      x = stage === last ? [] : stage.map((rank, i) => rank[program].read("outputs/y", dims[i]));
    }
    for (const stage of ranks.slice(0, -1)) {
      stage.forEach((rank, i) =>
        names.forEach((name) =>
          rank.decode.write(`state/${name}`, last[i]!.decode.readInts(`state/${name}`, n + 1))
        )
      );
    }
  };

  // Slots in reverse order, so that slots and rows are different things; pages interleaved between sequences.
  const slots = prompts.map((_, i) => n - i), ints = (x: readonly number[]) => Int32Array.from(x);
  const bySlot = (f: (sequence: number) => readonly number[], width: number) => {
    const table = new Int32Array((n + 1) * width);
    slots.forEach((slot, i) => table.set(f(i), slot * width));
    return table;
  };
  for (const { prefill, decode } of all) {
    prefill.write(
      "state/pageTable",
      bySlot((i) => Array.from({ length: maxPages }, (_, p) => p * n + i), maxPages),
    );
    prefill.write("state/position", bySlot((i) => [prompts[i]!.length - 1], 1));
    prefill.write(
      "state/sampler",
      bySlot((i) => {
        const row = new Array<number>(8).fill(0);
        row[SAMPLER.keyLow] = 1234;
        row[SAMPLER.index] = i;
        row[SAMPLER.limit] = steps;
        return row;
      }, 8),
    );
    for (const name of ["finished", "count"]) prefill.write(`state/${name}`, new Int32Array(n + 1));
    writeBatch(prefill, batch);
    prefill.write("inputs/tokenSlots", ints(prompts.flatMap((p, i) => p.map(() => slots[i]!))));
    prefill.offer("inputs/rows", ints(batch.ports.lastRows));
    prefill.offer("inputs/slots", ints(slots));
    decode.write("inputs/slots", ints(slots));
  }
  await step("prefill", { ...batch.live, actions: n });
  // More steps than tokens: finished slots are masked on the device. One rank takes them all at once.
  const live = { tokens: n, actions: 0, sequences: 0 };
  if (all.length === 1) await Promise.all(Array.from({ length: steps + 2 }, () => step("decode", live)));
  else for (let i = 0; i < steps + 2; i++) await step("decode", live);

  const row = (read: () => Iterable<number>) => [...read()];
  const result = ({ decode }: { readonly decode: Binding }) =>
    slots.map((slot) => ({
      tokens: row(() => decode.readInts("state/outTokens", steps, slot * steps)),
      logprobs: Float32Array.from(row(() => decode.readFloats("state/outLogprobs", steps, slot * steps))),
    }));
  return last.map(result);
}
