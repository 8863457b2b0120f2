import assert from "node:assert/strict";
import fc from "fast-check";
import { storedIn } from "../../compiler/models/storage.ts";
import { type Holder, type Move, reallocate, reallocationBytes } from "../../compiler/reallocate.ts";
import {
  eachElement,
  emptyMemory,
  loaded,
  type Memory,
  type Pair,
  pairs,
  wholeModel,
} from "./reallocate_fixtures.ts";

/** The same 500 pairs in every run: below, they are known to hold every kind of change. */
const RUNS = { numRuns: 500, seed: 3 };

/** Carries out a reallocation; throws when a move reads what is not there yet or writes what was written before. */
function carriedOut(
  before: Memory,
  to: readonly Holder[],
  { moves, shared }: { readonly moves: readonly Move[]; readonly shared: readonly number[] },
): Memory {
  const after = emptyMemory(to, NaN),
    marks = () => new Map([...after].map(([d, x]) => [d, new Uint8Array(x.length)]));
  const received = marks(), written = marks();
  for (const device of shared) after.set(device, before.get(device)!);
  let passing = false;
  for (const move of moves) {
    passing ||= move.of === "target";
    assert.equal(move.of, passing ? "target" : "source");
    const source = (passing ? after : before).get(move.from)!, target = after.get(move.to)!;
    const sent = received.get(move.from), here = received.get(move.to)!, done = written.get(move.to)!;
    eachElement(move, (s, t) => {
      if (s >= source.length || t >= target.length) assert.fail("reaches past a segment");
      if (passing && sent![s] !== 1) assert.fail("passes on what no other device sent");
      if (done[t] === 1) assert.fail("writes twice");
      done[t] = 1;
      if (!passing) here[t] = 1;
      target[t] = source[s]!;
    });
  }
  return after;
}

Deno.test("reallocate() writes every element of every piece once and nothing else, there and back", () => {
  const seen: Record<string, number> = {};
  fc.assert(
    fc.property(pairs, (pair) => {
      const { cluster, from, to } = pair, whole = wholeModel([...from.holders, ...to.holders]);
      const before = loaded(from.holders, whole, NaN), there = reallocate(from.holders, to.holders, cluster);
      const after = carriedOut(before, to.holders, there);
      assert.deepEqual(after, loaded(to.holders, whole, NaN));
      const back = reallocate(to.holders, from.holders, cluster);
      assert.deepEqual(carriedOut(after, from.holders, back), before);
      for (const kind of kindsOf(pair, there.moves)) seen[kind] = (seen[kind] ?? 0) + 1;
    }),
    RUNS,
  );
  for (const [kind, n] of Object.entries(seen)) assert.ok(n >= 10, `only ${n} pairs with ${kind}`);
  assert.equal(Object.keys(seen).length, 11);
});

function* kindsOf({ model: { config, head }, from, to }: Pair, moves: readonly Move[]): Iterable<string> {
  const tp = [from.strategy.tp, to.strategy.tp], pp = [from.strategy.pp, to.strategy.pp];
  const old = new Set(from.holders.map((h) => h.device)),
    kept = to.holders.filter((h) => old.has(h.device)).length;
  if (kept === 0) yield "disjoint meshes";
  else if (kept === old.size && kept === to.holders.length) yield "one mesh";
  else yield "overlapping meshes";
  if (Math.max(from.holders.length, to.holders.length) > 8) yield "more than 8 devices";
  if (from.strategy.dp !== to.strategy.dp && tp[0] !== tp[1] && pp[0] !== pp[1]) {
    yield "dp, tp and pp changed";
  }
  if (Math.max(...tp) > config.kvHeads) yield "replicated key and value heads";
  if (Math.max(...tp) > Math.ceil(config.vocab / 16)) yield "fewer panels than ranks";
  if (config.tied && head === "lm" && Math.max(...pp) > 1) yield "a tied embedding on two stages";
  if (moves.some((m) => m.of === "target")) yield "moves that pass on";
  if (moves.some((m) => m.count > 1 && m.source % 64 !== m.target % 64)) yield "lanes that do not line up";
  if (config.layers % pp[0]! || config.layers % pp[1]!) yield "uneven stages";
}

/** Who holds every element (by its value) before, and who lacks it: bit d for device d. */
function bits({ from, to }: Pair) {
  const whole = wholeModel([...from.holders, ...to.holders]);
  const size = 1 + [...whole.values()].reduce((n, x) => n + x.length, 0);
  const held = new Uint32Array(size), needed = new Uint32Array(size);
  const mark = (memory: Memory, into: Uint32Array) => {
    for (const [device, data] of memory) for (const x of data) if (x) into[x]! |= 1 << device;
  };
  const before = loaded(from.holders, whole, 0);
  mark(before, held);
  mark(loaded(to.holders, whole, 0), needed);
  return { before, held, lacking: needed.map((n, x) => n & ~held[x]!) };
}

const devices = (mask: number) => Array.from({ length: 16 }, (_, d) => d).filter((d) => mask >>> d & 1);
function population(mask: number): number {
  let n = 0;
  for (let rest = mask; rest; rest &= rest - 1) n++;
  return n;
}
/** What a rank holds and where, as text. */
const printed = (holders: readonly Holder[]) =>
  new Map(holders.map(({ device, shard }) => [
    device,
    shard.parameters.map((p) => `${p.name} ${p.offset} ${p.shape} ${p.slice?.from}`).join(),
  ]));

Deno.test("reallocate() moves the minimum: from the nearest, once into each node, by senders that are evenly busy", () => {
  fc.assert(
    fc.property(pairs, (pair) => {
      const { cluster: { devicesPerNode }, from, to } = pair;
      const r = reallocate(from.holders, to.holders, { devicesPerNode }),
        { before, held, lacking } = bits(pair);
      const least = 4 * lacking.reduce((n, mask) => n + population(mask), 0);
      assert.deepEqual([r.bytes, r.minimum], [least, least]);
      const old = printed(from.holders), next = printed(to.holders);
      assert.deepEqual(r.shared, [...next.keys()].filter((d) => old.get(d) === next.get(d)));

      const nodeOf = (d: number) => Math.floor(d / devicesPerNode);
      const nodeMask = (d: number) => ((1 << devicesPerNode) - 1) << nodeOf(d) * devicesPerNode;
      const grain = Math.max(...from.holders[0]!.shard.parameters.map((p) => 4 * 16 * (p.global[1] ?? 1)));
      const tolerance = 3 * grain + Math.max(...r.sent.values()) / 16;
      const crossed = new Set<number>(), totals = { local: 0, sent: new Map(), received: new Map() };
      for (const move of r.moves) {
        const inside = nodeOf(move.from) === nodeOf(move.to), bytes = move.bytes * move.count;
        assert.ok(!r.shared.includes(move.to));
        if (move.from === move.to) totals.local += bytes;
        else {
          totals.sent.set(move.from, (totals.sent.get(move.from) ?? 0) + bytes);
          totals.received.set(move.to, (totals.received.get(move.to) ?? 0) + bytes);
        }
        if (move.of === "target") {
          assert.ok(inside && move.from !== move.to);
          continue;
        }
        let last = -1;
        eachElement(move, (s) => {
          const x = before.get(move.from)![s]!, holders = held[x]!, near = holders & nodeMask(move.to);
          const key = nodeOf(move.to) * held.length + x;
          if (!inside && crossed.has(key)) assert.fail("goes into a node twice");
          if (!inside) crossed.add(key);
          if (holders === last) return;
          last = holders;
          if (holders >>> move.to & 1) return assert.equal(move.from, move.to);
          if (near) assert.ok(inside, "comes from another node and is in this one");
          const receivers = near ? [move.to] : devices(lacking[x]! & nodeMask(move.to));
          const equallyNear = devices(near || holders);
          const twins = equallyNear.filter((d) => receivers.some((r) => next.get(r) === old.get(d)));
          if (twins.length) assert.ok(twins.includes(move.from), "another one could give all in one piece");
          for (const other of twins.length ? twins : equallyNear) {
            assert.ok(
              r.sent.get(move.from)! - (r.sent.get(other) ?? 0) <= tolerance,
              "another one is less busy",
            );
          }
        });
      }
      const sorted = (map: ReadonlyMap<number, number>) => [...map].sort(([a], [b]) => a - b);
      assert.equal(r.localBytes, totals.local);
      assert.deepEqual(sorted(r.sent), sorted(totals.sent));
      assert.deepEqual(sorted(r.received), sorted(totals.received));
      const { moves: _, ...cost } = r;
      assert.deepEqual(reallocationBytes(from.holders, to.holders, { devicesPerNode }), cost);
    }),
    RUNS,
  );
});

Deno.test("bytes from rounded weights to their average count as they are sent: half as many, those passed on whole", () => {
  let relayed = 0;
  fc.assert(
    fc.property(pairs, ({ cluster, from, to }) => {
      const half = from.holders.map((h) => ({
        ...h,
        shard: { ...h.shard, config: { ...h.shard.config, storage: storedIn("bf16") } },
      }));
      const { moves, bytes, localBytes, sent, received } = reallocate(half, to.holders, cluster);
      const sum = (crosses: boolean) =>
        moves.filter((m) => (m.from !== m.to) === crosses)
          .reduce((n, m) => n + m.count * m.bytes / (m.of === "source" ? 2 : 1), 0);
      assert.equal(bytes, sum(true));
      assert.equal(localBytes, sum(false));
      for (const side of [sent, received]) assert.equal([...side.values()].reduce((a, b) => a + b, 0), bytes);
      relayed += moves.filter((m) => m.of === "target").length;
    }),
    { numRuns: 100, seed: 4 },
  );
  assert.ok(relayed > 100);
});
