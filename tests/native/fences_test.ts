/**
 * Programs of generation, compute and update over many mixes of lengths: every buffer lies between poisoned bytes, in every
 * segment, and pages and slots that are not a sequence's own stay as they were. Infer and train are in buffers_test.ts.
 */
import assert from "node:assert/strict";
import {
  compileCompute,
  compileCopyPages,
  compileDecode,
  compilePrefill,
  compileUpdate,
} from "../../compiler/compile.ts";
import { wholeShard } from "../../compiler/layout.ts";
import type { ModelConfig } from "../../compiler/models/config.ts";
import { ropeTable } from "../../compiler/models/transformer.ts";
import { gae } from "../../dsl/advantages.ts";
import { Binding } from "../../engine/binding.ts";
import { Device, DeviceSegment } from "../../ffi/device.ts";
import type { ComputeCall, Head } from "../../ir/graph.ts";
import { type Maxima, PAGE, SAMPLER, type Segment, SEGMENTS } from "../../ir/op.ts";
import type { Program } from "../../ir/program.ts";
import { random } from "../golden/model_runner.ts";
import { ADAMW, SAMPLING, tiny } from "../pure/compiler_fixtures.ts";

const GUARD = 256, TAIL = 4096, FENCE = 0xa5;
const device = Device.open({ threads: 2 });
type Memory = Partial<Record<Segment, DeviceSegment>>;

function poisoned(bytes: number): DeviceSegment {
  const segment = new DeviceSegment(bytes + TAIL);
  segment.fill(0, segment.bytes, FENCE);
  return segment;
}
const bytesOf = (segment: DeviceSegment) => segment.read(0, new Uint8Array(segment.bytes));

/** A program whose segments are poisoned outside its buffers and behind their end. */
class Fenced {
  readonly binding: Binding;
  readonly memory: Memory = {};
  readonly #inside = new Map<Segment, Uint8Array>();

  constructor(readonly program: Program, shared: Memory = {}) {
    for (const name of SEGMENTS) {
      if (program.segmentBytes[name] === 0) continue;
      const segment = this.memory[name] = shared[name] ?? poisoned(program.segmentBytes[name]);
      const inside = new Uint8Array(segment.bytes);
      for (const row of program.table) {
        if (row.segment === name) inside.fill(1, row.offset, row.offset + row.bytes);
      }
      this.#inside.set(name, inside);
    }
    this.binding = new Binding(device, program, this.memory);
  }

  /** Runs, and fails where a byte outside all buffers changed. `reads` must not change at all. */
  async run(live: Parameters<Binding["run"]>[0], reads: readonly Segment[] = ["inputs"]): Promise<void> {
    const { arena } = this.memory,
      before = reads.map((name) => this.memory[name]).map((s) => s && bytesOf(s));
    arena?.fill(0, arena.bytes, FENCE);
    await this.binding.run(live);
    for (const [name, inside] of this.#inside) {
      const broken = bytesOf(this.memory[name]!).findIndex((b, at) => !inside[at] && b !== FENCE);
      assert.equal(broken, -1, `${this.program.name} wrote at ${broken} of ${name}`);
    }
    reads.forEach((name, i) => {
      if (!before[i]) return;
      const now = bytesOf(this.memory[name]!), changed = now.findIndex((b, at) => b !== before[i]![at]);
      assert.equal(changed, -1, `${this.program.name} changed ${name} at ${changed}`);
    });
  }
}

const MODELS = [
  tiny({ vocab_size: 60, tie_word_embeddings: true }),
  tiny({ model_type: "qwen3", architectures: [], head_dim: 8, vocab_size: 60, sliding_window: 7 }),
];
const SLOTS = 8, MAX_PAGES = 3, PAGES = 30, MAX_NEW = 6;
const NONE: Maxima = { one: 1, tokens: 0, actions: 0, sequences: 0, groups: 0, pairs: 0, shard: 0 };

/** A permutation of 0 … n − 1. */
function shuffled(n: number, next: () => number): number[] {
  const order = Array.from({ length: n }, (_, i) => [next(), i] as const);
  return order.sort(([a], [b]) => a - b).map(([, i]) => i);
}
const whole = (next: () => number, from: number, to: number) =>
  from + Math.floor((next() + 1) / 2 * (to - from + 1));

function generation(config: ModelConfig) {
  const cache = { slots: SLOTS, pages: PAGES, maxPages: MAX_PAGES, maxNew: MAX_NEW, stops: 1 };
  const o = { ...cache, sampling: { ...SAMPLING, topK: 20, topP: 0.9 }, guard: GUARD };
  const prefill = compilePrefill(wholeShard(config, "lm"), {
    ...o,
    maxima: { ...NONE, tokens: 96, actions: SLOTS, sequences: SLOTS },
  });
  const decode = compileDecode(wholeShard(config, "lm"), { ...o, maxima: { ...NONE, tokens: SLOTS } });
  const copy = compileCopyPages(wholeShard(config, "lm"), {
    pages: PAGES,
    maxima: { ...NONE, sequences: 4 },
  });
  const most = (name: Segment) => Math.max(prefill.segmentBytes[name], decode.segmentBytes[name]);
  const shared = {
    params: poisoned(most("params")),
    constants: poisoned(most("constants")),
    kv: poisoned(most("kv")),
    state: poisoned(most("state")),
  };
  return { shared, prefill: new Fenced(prefill, shared), decode: new Fenced(decode, shared), copy, most };
}

Deno.test("prefill, decode and page copies touch nothing but their buffers, their pages and their slots", async () => {
  const next = random(3), fixed = ["inputs", "params", "constants"] as const;
  let runs = 0;
  for (const config of MODELS) {
    const { shared, prefill, decode, copy, most } = generation(config), { binding } = prefill;
    const weights = Float32Array.from({ length: most("params") / 4 }, () => 0.3 * next());
    for (const row of prefill.program.table) {
      const at = row.offset / 4;
      if (row.segment === "params") {
        shared.params.write(row.offset, weights.subarray(at, at + row.bytes / 4));
      }
    }
    const rows = most("constants") / 4 / config.headDim;
    shared.constants.write(0, ropeTable(config, rows).subarray(0, most("constants") / 4));
    const page = 2 * config.kvHeads * config.headDim * PAGE * 4;
    const pagesNow = () => {
      const all = bytesOf(shared.kv);
      return (p: number) =>
        Array.from(
          { length: config.layers },
          (_, l) => all.subarray((l * PAGES + p) * page, (l * PAGES + p + 1) * page),
        );
    };
    const perSlot = ["token", "position", "finished", "count", "sampler", "outTokens", "outLogprobs"];
    const ints = (name: string) => {
      const { offset, bytes } = binding.port(`state/${name}`);
      return shared.state.read(offset, new Int32Array(bytes / 4));
    };

    for (let mix = 0; mix < 25; mix++) {
      shared.kv.fill(0, most("kv"), FENCE);
      shared.state.fill(0, most("state"), FENCE);
      const n = whole(next, 1, SLOTS - 1), slots = shuffled(SLOTS, next).slice(0, n);
      const lengths = slots.map(() =>
        whole(next, 1, Math.min(MAX_PAGES * PAGE - MAX_NEW, Math.floor(96 / n)))
      );
      const free = shuffled(PAGES, next), owned = new Set<number>(), prompts = new Set<number>();
      const table = ints("pageTable");
      slots.forEach((slot, i) => {
        const last = Math.floor((lengths[i]! + MAX_NEW - 1) / PAGE);
        for (let p = 0; p <= last; p++) {
          const page = table[slot * MAX_PAGES + p] = free.pop()!;
          owned.add(page);
          if (p * PAGE < lengths[i]!) prompts.add(page);
        }
        // The rest of its row names somebody else's page, as a reused row does.
        table.fill(free[0]!, slot * MAX_PAGES + last + 1, (slot + 1) * MAX_PAGES);
        const set = (name: string, width: number, values: readonly number[]) =>
          shared.state.write(
            binding.port(`state/${name}`).offset + 4 * width * slot,
            Int32Array.from(values),
          );
        set("position", 1, [lengths[i]! - 1]);
        set("finished", 1, [0]);
        set("count", 1, [0]);
        const sampler = new Array<number>(8).fill(0);
        sampler[SAMPLER.keyLow] = mix;
        sampler[SAMPLER.index] = i;
        sampler[SAMPLER.limit] = MAX_NEW;
        set("sampler", 8, sampler);
      });
      binding.write("state/pageTable", table);
      binding.write("state/stops", Int32Array.of(7));
      const before = new Map(["pageTable", "stops", "sampler"].map((name) => [name, ints(name)]));

      const tokens = lengths.reduce((a, b) => a + b, 0);
      let end = 0;
      const ends = lengths.map((length) => end += length);
      binding.write("inputs/ids", Int32Array.from({ length: tokens }, () => whole(next, 0, 59)));
      binding.write("inputs/positions", Int32Array.from(lengths.flatMap((l) => [...Array(l).keys()])));
      binding.write("inputs/tokenSlots", Int32Array.from(lengths.flatMap((l, i) => Array(l).fill(slots[i]))));
      binding.write("inputs/ends", Int32Array.from(ends));
      binding.write("inputs/rows", Int32Array.from(ends, (e) => e - 1));
      binding.write("inputs/slots", Int32Array.from(slots));
      binding.offer("inputs/inverseTemperature", Float32Array.of(1));
      await prefill.run({ tokens, actions: n, sequences: n }, fixed);
      runs++;
      decode.binding.write("inputs/slots", Int32Array.from(slots));
      decode.binding.offer("inputs/inverseTemperature", Float32Array.of(1));
      // More steps than tokens: what is finished must not go on writing.
      for (let step = 0; step < MAX_NEW + 1; step++, runs++) await decode.run({ tokens: n }, fixed);

      const now = pagesNow();
      for (let p = 0; p < PAGES; p++) {
        const touched = now(p).map((layer) => layer.some((b) => b !== FENCE));
        if (!owned.has(p)) assert.ok(!touched.includes(true), `page ${p}, which nobody owns`);
        if (prompts.has(p)) assert.ok(!touched.includes(false), `page ${p} of a prompt`);
      }
      for (const [name, values] of before) assert.deepEqual(ints(name), values, name);
      for (const name of perSlot) {
        const values = ints(name), width = values.length / SLOTS, poison = FENCE * 0x01010101 | 0;
        for (let slot = 0; slot < SLOTS; slot++) {
          if (slots.includes(slot)) continue;
          const row = values.subarray(slot * width, (slot + 1) * width);
          assert.ok(row.every((v) => v === poison), `${name} of slot ${slot}, which nobody uses`);
        }
      }
    }

    using kv = new DeviceSegment(copy.segmentBytes.kv + TAIL);
    kv.write(0, bytesOf(shared.kv));
    const [from, to] = [[1, 5, 9], [2, 0, 29]], old = bytesOf(kv);
    const copies = new Fenced(copy, { kv });
    copies.binding.write("inputs/from", Int32Array.from(from!));
    copies.binding.write("inputs/to", Int32Array.from(to!));
    await copies.run({ sequences: 3 });
    const wanted = old.slice();
    for (let l = 0; l < config.layers; l++) {
      from!.forEach((p, i) => {
        const source = (l * PAGES + p) * page;
        wanted.set(old.subarray(source, source + page), (l * PAGES + to![i]!) * page);
      });
    }
    assert.deepEqual(bytesOf(kv), wanted);
  }
  assert.ok(runs >= 200, `${runs}`);
});

Deno.test("compute programs touch nothing but their buffers over 200 mixes of lengths", async () => {
  const next = random(4), call = gae({ gamma: 0.9, lambda: 0.95, whiten: true }).drafts[0]!;
  const { expr } = call.call as unknown as ComputeCall;
  const maxima = { ...NONE, actions: 80, sequences: 8, groups: 4, pairs: 4 };
  const fenced = new Fenced(compileCompute(expr, { maxima, fields: call.reads, guard: GUARD }));
  for (let i = 0; i < 200; i++) {
    const sequences = 2 * whole(next, 1, 4),
      lengths = Array.from({ length: sequences }, () => whole(next, 0, 10));
    let end = 0;
    const ends = lengths.map((n) => end += n);
    for (const [name, port] of Object.entries(fenced.program.ports)) {
      if (port.segment !== "inputs" || port.dtype !== "f32") continue;
      fenced.binding.write(name, Float32Array.from({ length: port.bytes / 4 }, next));
    }
    fenced.binding.offer("inputs/actionEnds", Int32Array.from(ends));
    await fenced.run({ actions: end, sequences, groups: sequences / 2, pairs: sequences / 2 });
  }
});

Deno.test("compute programs use at least 95 % of their arena at the largest lengths", async () => {
  const next = random(6), call = gae({ gamma: 0.9, lambda: 0.95, whiten: true }).drafts[0]!;
  const { expr } = call.call as unknown as ComputeCall;
  const maxima = { ...NONE, actions: 4096, sequences: 64, groups: 32, pairs: 32 };
  const { binding, memory: { arena }, program } = new Fenced(
    compileCompute(expr, { maxima, fields: call.reads }),
  );
  for (const [name, port] of Object.entries(program.ports)) {
    if (port.segment !== "inputs" || port.dtype !== "f32") continue;
    binding.write(name, Float32Array.from({ length: port.bytes / 4 }, next));
  }
  binding.write("inputs/actionEnds", Int32Array.from({ length: 64 }, (_, i) => 64 * (i + 1)));
  const touched = new Uint8Array(arena!.bytes);
  // A byte that happens to get the value that was there counts as untouched: two fills tell them apart.
  for (const byte of [0, FENCE]) {
    arena!.fill(0, arena!.bytes, byte);
    await binding.run({ actions: 4096, sequences: 64, groups: 32, pairs: 32 });
    bytesOf(arena!).forEach((b, at) => touched[at]! |= Number(b !== byte));
  }
  const share = (touched.lastIndexOf(1) + 1) / program.segmentBytes.arena;
  assert.ok(share >= 0.95 && share <= 1, `${share}`);
});

Deno.test("update programs touch nothing but parameters, moments and gradients", async () => {
  const next = random(5);
  for (const config of MODELS) {
    for (const head of ["lm", "value", "reward"] as const satisfies readonly Head[]) {
      const fenced = new Fenced(
        compileUpdate(wholeShard(config, head), { ...ADAMW, clip: 1 }, { guard: GUARD }),
      );
      for (let t = 1; t <= 10; t++) {
        for (const row of fenced.program.table) {
          if (row.segment === "arena" || row.segment === "outputs" || row.segment === "inputs") continue;
          fenced.memory[row.segment]!.write(
            row.offset,
            Float32Array.from({ length: row.bytes / 4 }, () => Math.abs(next())),
          );
        }
        fenced.binding.write("inputs/hyper", Float32Array.of(1e-3, 1 - 0.9 ** t, 1 - 0.95 ** t));
        await fenced.run({});
      }
    }
  }
});
