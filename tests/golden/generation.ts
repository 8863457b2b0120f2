/** Generation by hand, without the engine: one prefill, then decode steps of every slot. */
import type { Binding } from "../../engine/binding.ts";
import { DeviceSegment } from "../../ffi/device.ts";
import { compileDecode, compilePrefill } from "../../compiler/compile.ts";
import type { ModelConfig } from "../../compiler/models/config.ts";
import { PAGE, SAMPLER } from "../../ir/op.ts";
import { MAXIMA, SAMPLING } from "../pure/compiler_fixtures.ts";
import { type ModelRunner, packed, writeBatch } from "./model_runner.ts";

/** Prefills prompts, samples `steps` tokens for each, and returns tokens and log-probabilities by sequence. */
export async function generate(
  runner: ModelRunner,
  config: ModelConfig,
  prompts: readonly (readonly number[])[],
  steps: number,
  temperature: number,
) {
  const n = prompts.length,
    longest = Math.max(...prompts.map((p) => p.length)) + steps,
    maxPages = Math.floor(longest / PAGE) + 1,
    cache = { slots: n + 1, pages: n * maxPages, maxPages, maxNew: steps, stops: 0 };
  const tokens = prompts.reduce((sum, p) => sum + p.length, 0);
  const o = {
    ...cache,
    maxima: { ...MAXIMA, tokens, actions: tokens },
    sampling: { ...SAMPLING, temperature },
  };
  const prefill = runner.bind(compilePrefill(config, o));
  using kv = new DeviceSegment(prefill.program.segmentBytes.kv);
  using state = new DeviceSegment(prefill.program.segmentBytes.state);
  const shared = { kv, state };
  const [first, decode] = [
    runner.bind(prefill.program, shared),
    runner.bind(compileDecode(config, o), shared),
  ];
  // NaN everywhere: what was never written must not be read.
  kv.fill(0, kv.bytes, 0xff);
  // Slots in reverse order, so that slots and rows are different things; pages interleaved between sequences.
  const slots = prompts.map((_, i) => n - i), ints = (x: readonly number[]) => Int32Array.from(x);
  const bySlot = (f: (sequence: number) => readonly number[], width: number) => {
    const table = new Int32Array((n + 1) * width);
    slots.forEach((slot, i) => table.set(f(i), slot * width));
    return table;
  };
  first.write(
    "state/pageTable",
    bySlot((i) => Array.from({ length: maxPages }, (_, p) => p * n + i), maxPages),
  );
  first.write("state/position", bySlot((i) => [prompts[i]!.length - 1], 1));
  first.write(
    "state/sampler",
    bySlot((i) => {
      const row = new Array<number>(8).fill(0);
      row[SAMPLER.keyLow] = 1234;
      row[SAMPLER.index] = i;
      row[SAMPLER.limit] = steps;
      return row;
    }, 8),
  );
  for (const name of ["finished", "count"]) first.write(`state/${name}`, new Int32Array(n + 1));
  const batch = packed(prompts);
  writeBatch(first, batch);
  first.write("inputs/tokenSlots", ints(prompts.flatMap((p, i) => p.map(() => slots[i]!))));
  first.write("inputs/rows", ints(batch.ports.lastRows));
  first.write("inputs/slots", ints(slots));
  await first.run({ ...batch.live, actions: n });
  decode.write("inputs/slots", ints(slots));
  // More steps than tokens: finished slots are masked on the device.
  await Promise.all(Array.from({ length: steps + 2 }, () => decode.run({ tokens: n })));
  const row = (read: (binding: Binding) => Iterable<number>) => [...read(decode)];
  return slots.map((slot) => ({
    tokens: row((b) => b.readInts("state/outTokens", steps, slot * steps)),
    logprobs: Float32Array.from(row((b) => b.readFloats("state/outLogprobs", steps, slot * steps))),
  }));
}
