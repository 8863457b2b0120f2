import assert from "node:assert/strict";
import * as fc from "fast-check";
import { overlap, Timeline, type TimelineSpan } from "../../engine/timeline.ts";

const span = (o: Partial<TimelineSpan>): TimelineSpan => ({
  device: 0,
  lane: "call",
  name: "actor.train",
  detail: "",
  step: 1,
  begin: 0,
  end: 1,
  ...o,
});
const filled = (...spans: Partial<TimelineSpan>[]): Timeline => {
  const timeline = new Timeline();
  for (const s of spans) timeline.add(span(s));
  return timeline;
};
/** Begin, end and detail of every span. */
const brief = (spans: readonly TimelineSpan[]) => spans.map((s) => [s.begin, s.end, s.detail]);

Deno.test("Timeline lets successive spans alike grow into one, and only those", () => {
  const timeline = filled(
    { name: "actor.generate", detail: "prefill", begin: 0, end: 5 },
    { name: "actor.generate", detail: "decode", begin: 5.1, end: 6, bytes: 4 },
    { name: "actor.generate", detail: "decode", begin: 6.4, end: 7, bytes: 4 },
    // Another device, a long gap, another detail: each is a span of its own.
    { name: "actor.generate", detail: "decode", begin: 6.4, end: 7, device: 1 },
    { name: "actor.generate", detail: "decode", begin: 8, end: 9 },
    { name: "actor.generate", detail: "copy", begin: 9, end: 10 },
  );
  assert.deepEqual(brief(timeline.spans(1)), [
    [0, 5, "prefill"],
    [5.1, 7, "decode"],
    [6.4, 7, "decode"],
    [8, 9, "decode"],
    [9, 10, "copy"],
  ]);
  assert.equal(timeline.spans(1)[1]!.bytes, 8);
});

Deno.test("Timeline keeps the newest steps, and a bounded number of spans of each", () => {
  const timeline = new Timeline({ steps: 3 });
  for (let step = 1; step <= 10; step++) timeline.add(span({ step, begin: step, end: step + 1 }));
  assert.deepEqual(timeline.steps, [8, 9, 10]);
  // A step that is forgotten does not come back with a late span of it.
  timeline.add(span({ step: 2 }));
  assert.deepEqual(timeline.steps, [8, 9, 10]);
  for (let i = 0; i < 50_000; i++) timeline.add(span({ step: 11, begin: 10 * i, end: 10 * i + 1 }));
  assert.deepEqual(timeline.steps, [9, 10, 11]);
  assert.equal(timeline.spans(11).length, 20_000);
  assert.equal(timeline.spans(11).at(-1)!.end, 499_991);
});

Deno.test("busy() is the union over the devices of a call, with the gaps of submission closed", () => {
  const timeline = filled(
    { device: 0, begin: 0, end: 4, detail: "a" },
    { device: 1, begin: 3, end: 6, detail: "a" },
    { device: 0, begin: 6.9, end: 8, detail: "b" },
    { device: 0, begin: 9.5, end: 10, detail: "b" },
    { device: 2, begin: 0, end: 20, name: "critic.train" },
    { device: 0, begin: 20, end: 30, step: 2 },
  );
  assert.deepEqual(timeline.busy("actor.train", 1), [{ begin: 0, end: 8 }, { begin: 9.5, end: 10 }]);
  assert.deepEqual(timeline.busy("actor.train", 1, 1), [{ begin: 3, end: 6 }]);
  assert.deepEqual(timeline.busy("nothing", 1), []);
});

Deno.test("overlap() is the share of the shorter busy time that both have", () => {
  const of = (...ends: [number, number][]) => ends.map(([begin, end]) => ({ begin, end }));
  assert.equal(overlap(of([0, 10]), of([2, 4])), 1);
  assert.equal(overlap(of([0, 10]), of([8, 12])), 0.5);
  assert.equal(overlap(of([0, 1], [2, 3]), of([1, 2], [3, 9])), 0);
  assert.equal(overlap(of([0, 2], [4, 6]), of([1, 5])), 0.5);
  assert.equal(overlap(of(), of([1, 5])), 0);
});

Deno.test("overlap() is symmetric, between 0 and 1, and counts what it is given twice once", () => {
  const intervals = fc.array(
    fc.record({ begin: fc.integer({ min: 0, max: 40 }), length: fc.integer({ min: 1, max: 9 }) }),
    { maxLength: 6 },
  ).map((all) => all.map(({ begin, length }) => ({ begin, end: begin + length })));
  /** Whole milliseconds that are covered: what the sweep over ends has to agree with. */
  const cells = (all: { begin: number; end: number }[]) =>
    new Set(all.flatMap(({ begin, end }) => Array.from({ length: end - begin }, (_, i) => begin + i)));
  fc.assert(fc.property(intervals, intervals, (a, b) => {
    const [x, y] = [cells(a), cells(b)], shorter = Math.min(x.size, y.size);
    const expected = shorter ? x.intersection(y).size / shorter : 0;
    assert.equal(overlap(a, b), expected);
    assert.equal(overlap(b, [...a, ...a]), expected);
  }));
});

interface TraceEvent {
  readonly ph: string;
  readonly pid: number;
  readonly tid?: number;
  readonly name: string;
  readonly cat?: string;
  readonly ts?: number;
  readonly dur?: number;
  readonly args: Readonly<Record<string, unknown>>;
}
const trace = (timeline: Timeline): readonly TraceEvent[] => JSON.parse(timeline.trace("ppo")).traceEvents;

Deno.test("trace() is Chrome's format: named threads by device, microseconds from the first span on", () => {
  const events = trace(filled(
    { device: 10, begin: 1000.5, end: 1002, detail: "stage 1" },
    { device: 2, begin: 1000.25, end: 1000.75, lane: "reallocation", name: "actor@0 → actor@1", bytes: 64 },
    { device: "host", begin: 1001, end: 1003, name: "score" },
    { device: 2, begin: 1001, end: 1002, detail: "decode" },
    { device: 2, begin: 1002.25, end: 1003, detail: "decode" },
  ));
  const threads = events.filter((e) => e.name === "thread_name").map((e) => [e.tid, e.args.name]);
  assert.deepEqual(threads, [[0, "device 2"], [1, "device 10"], [2, "host"]]);
  assert.deepEqual(events[0], { ph: "M", pid: 1, name: "process_name", args: { name: "ppo" } });
  assert.deepEqual(events.filter((e) => e.ph === "X"), [
    {
      ph: "X",
      pid: 1,
      tid: 0,
      name: "actor@0 → actor@1",
      cat: "reallocation",
      ts: 0,
      dur: 500,
      args: { step: 1, bytes: 64 },
    },
    {
      ph: "X",
      pid: 1,
      tid: 0,
      name: "actor.train",
      cat: "call",
      ts: 750,
      dur: 2000,
      args: { step: 1, detail: "decode", runs: 2, busy_ms: 1.75 },
    },
    {
      ph: "X",
      pid: 1,
      tid: 1,
      name: "actor.train",
      cat: "call",
      ts: 250,
      dur: 1500,
      args: { step: 1, detail: "stage 1" },
    },
    { ph: "X", pid: 1, tid: 2, name: "score", cat: "call", ts: 750, dur: 2000, args: { step: 1 } },
  ]);
});

Deno.test("trace() never lets two spans of one thread overlap: viewers would nest them", () => {
  const spans = fc.array(
    fc.record({
      device: fc.constantFrom(0, 1, "host" as const),
      name: fc.constantFrom("a", "b", "c"),
      begin: fc.float({ min: 0, max: 50, noNaN: true }),
      length: fc.float({ min: 0, max: 9, noNaN: true }),
    }),
    { maxLength: 30 },
  );
  fc.assert(fc.property(spans, (all) => {
    const timeline = new Timeline();
    for (const { length, ...s } of all) {
      timeline.add(span({ ...s, end: s.begin + length, detail: `${length}` }));
    }
    const threads = Map.groupBy(trace(timeline).filter((e) => e.ph === "X"), (e) => e.tid);
    for (const events of threads.values()) {
      events.forEach((e, i) => i && assert.ok(e.ts! >= events[i - 1]!.ts! + events[i - 1]!.dur!));
    }
  }));
});

Deno.test("gantt() shows the newest steps from the left edge, gaps too narrow to see closed", () => {
  const timeline = filled(
    { step: 1, begin: 0, end: 1 },
    { step: 2, begin: 100, end: 110, detail: "stage 0, forward" },
    { step: 2, begin: 111, end: 120, detail: "stage 0, backward" },
    { step: 2, begin: 150, end: 160, detail: "update" },
    { step: 2, device: 3, begin: 105, end: 106, lane: "transfer", name: "tokens", bytes: 5 },
    { step: 3, begin: 1100, end: 4100.0004 },
  );
  assert.deepEqual(timeline.gantt(), {
    steps: [{ step: 2, begin: 0, end: 60 }, { step: 3, begin: 1000, end: 4000 }],
    rows: [
      {
        label: "device 0",
        blocks: [
          { lane: "call", name: "actor.train", step: 2, begin: 0, end: 20 },
          { lane: "call", name: "actor.train", step: 2, begin: 50, end: 60, detail: "update" },
          { lane: "call", name: "actor.train", step: 3, begin: 1000, end: 4000 },
        ],
      },
      {
        label: "device 3",
        blocks: [{ lane: "transfer", name: "tokens", step: 2, begin: 5, end: 6, bytes: 5 }],
      },
    ],
  });
  assert.deepEqual(new Timeline().gantt(), { steps: [], rows: [] });
  assert.deepEqual(JSON.parse(new Timeline().trace("empty")).traceEvents.length, 1);
});
