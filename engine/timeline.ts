/** What every device did when, as it was measured: for the report, for tests, and for chrome://tracing or Perfetto. */
import { replaceFile } from "./files.ts";

/** A stretch of time, milliseconds of `performance.now()`. */
export interface Interval {
  readonly begin: number;
  readonly end: number;
}

/** One thing that a device or the host did. */
export interface TimelineSpan extends Interval {
  readonly device: number | "host";
  readonly lane: "call" | "reallocation" | "transfer";
  /** A call, "actor@0 → actor@1", or the field that was moved. */
  readonly name: string;
  /** "stage 1, forward, micro-batch 3"; empty where the name says it all. */
  readonly detail: string;
  /** From 1. */
  readonly step: number;
  readonly bytes?: number;
}

/** A span that grows while it is recorded. */
interface Grown extends TimelineSpan {
  end: number;
  bytes?: number;
  /** Spans that it was made from, and milliseconds in them. */
  runs: number;
  busy: number;
}

/** Successive spans alike that are less than this apart are one: hundreds of decode programs read as one block. */
const CLOSE_MS = 0.5;
/** Spans of one step that are kept apart; behind them, successive spans of one name are one whatever lies between. */
const MOST_SPANS = 20_000;
/** Gaps in a call's busy time that count as busy: the host submits the next program. */
const GAP_MS = 1;

/** Measured spans of the newest steps. */
export class Timeline {
  readonly #kept: number;
  readonly #steps = new Map<number, { readonly spans: Grown[]; readonly last: Map<string, Grown> }>();

  /** @param o.steps how many of the newest steps are kept */
  constructor(o: { readonly steps?: number } = {}) {
    this.#kept = o.steps ?? 8;
  }

  /** Records a span. Those of one device and name come in order of time. */
  add(span: TimelineSpan): void {
    const { spans, last } = this.#steps.get(span.step) ?? this.#begin(span.step);
    const key = `${span.device}/${span.lane}/${span.name}`, before = last.get(key);
    const near = before && before.detail === span.detail && span.begin - before.end <= CLOSE_MS;
    if (before && (near || spans.length >= MOST_SPANS)) {
      before.end = Math.max(before.end, span.end);
      if (span.bytes !== undefined) before.bytes = (before.bytes ?? 0) + span.bytes;
      before.runs++;
      before.busy += span.end - span.begin;
      return;
    }
    const grown = { ...span, runs: 1, busy: span.end - span.begin };
    spans.push(grown);
    last.set(key, grown);
  }

  #begin(step: number) {
    const begun = { spans: [], last: new Map<string, Grown>() };
    this.#steps.set(step, begun);
    // Steps overlap where a plan allows it, so an older one may still be recorded when a new one begins.
    for (const old of this.steps.slice(0, -this.#kept)) this.#steps.delete(old);
    return begun;
  }

  /** Steps that are kept, ascending. */
  get steps(): readonly number[] {
    return [...this.#steps.keys()].sort((a, b) => a - b);
  }

  /** Spans of a step, or of all, by the time that they began. */
  spans(step?: number): readonly TimelineSpan[] {
    return this.#grown(step === undefined ? this.steps : [step]);
  }

  #grown(steps: readonly number[]): Grown[] {
    return steps.flatMap((step) => this.#steps.get(step)?.spans ?? []).sort((a, b) => a.begin - b.begin);
  }

  /** When a call or a reallocation was at work in a step: on any of its devices, or on one. */
  busy(name: string, step: number, device?: number | "host"): Interval[] {
    const own = this.spans(step).filter((s) =>
      s.name === name && s.lane !== "transfer" && (device === undefined || s.device === device)
    );
    return union(own, GAP_MS);
  }

  /** The same as events of Chrome's trace format: one process, one thread a device; the host's spans that overlap side by side. */
  trace(run: string): string {
    const all = this.#grown(this.steps), start = all[0]?.begin ?? 0;
    const rows = rowsOf(all),
      events: object[] = [{ ph: "M", pid: 1, name: "process_name", args: { name: run } }];
    rows.forEach(({ label, order }, tid) =>
      events.push(
        { ph: "M", pid: 1, tid, name: "thread_name", args: { name: label } },
        { ph: "M", pid: 1, tid, name: "thread_sort_index", args: { sort_index: order } },
      )
    );
    const micro = (ms: number) => Math.round(1000 * ms);
    rows.forEach(({ spans }, tid) => {
      for (const { name, lane, detail, step, begin, end, bytes, runs, busy } of spans) {
        const args = { step, ...detail && { detail }, ...bytes !== undefined && { bytes } };
        const many = runs > 1 && { runs, busy_ms: Number(busy.toFixed(3)) };
        const ts = micro(begin - start), dur = micro(end - start) - ts;
        events.push({ ph: "X", pid: 1, tid, name, cat: lane, ts, dur, args: { ...args, ...many } });
      }
    });
    const lines = events.map((event) => JSON.stringify(event)).join(",\n");
    return `{"displayTimeUnit":"ms","traceEvents":[\n${lines}\n]}\n`;
  }

  /** Writes `timeline.json`; a reader sees the old file or the new one. */
  async write(path: string, run: string): Promise<void> {
    await replaceFile(path, this.trace(run));
  }

  /** Busy spans of the newest steps for the report's chart. */
  gantt(steps = 2): Gantt {
    const shown = this.steps.slice(-steps), all = this.#grown(shown), start = all[0]?.begin ?? 0;
    const length = Math.max(0, ...all.map((s) => s.end)) - start;
    const atWork = new Set(all.filter((s) => s.lane !== "transfer").map((s) => s.device));
    const beside = (s: Grown) => s.lane === "transfer" && atWork.has(s.device);
    const rows = rowsOf(all.filter((s) => !beside(s)));
    const charted = rows.map(({ label, device, spans }, i) => {
      // What is transferred is drawn on the first row of its device, whatever the device does meanwhile.
      const first = rows.findIndex((row) => row.device === device) === i;
      const transfers = first ? all.filter((s) => beside(s) && s.device === device) : [];
      return {
        label,
        blocks: [spans, transfers].flatMap((own) => blocksOf(own, start, length / FINE)),
      };
    });
    const ranges = shown.map((step) => {
      const own = all.filter((s) => s.step === step);
      return {
        step,
        begin: round(own[0]!.begin - start),
        end: round(own.reduce((end, s) => Math.max(end, s.end), 0) - start),
      };
    });
    return { steps: ranges, rows: charted };
  }
}

/** What the report's chart shows; times in milliseconds from its left edge. */
export interface Gantt {
  readonly steps: readonly { readonly step: number; readonly begin: number; readonly end: number }[];
  readonly rows: readonly { readonly label: string; readonly blocks: readonly Block[] }[];
}

/** A busy span of a row. */
export interface Block extends Interval {
  readonly lane: TimelineSpan["lane"];
  readonly name: string;
  readonly step: number;
  /** Where all that it was made from agree. */
  readonly detail?: string;
  readonly bytes?: number;
  /** Promised by a plan, and not measured. */
  readonly predicted?: boolean;
}

/** Gaps of a row that are narrower than the chart's length over this are not drawn. */
const FINE = 2000;

const round = (ms: number): number => Math.round(1000 * ms) / 1000;

/** Spans of a row with successive ones of one name as one block, where no visible gap is between them. */
function blocksOf(spans: readonly Grown[], start: number, gap: number): Block[] {
  const blocks: (TimelineSpan & { end: number; bytes?: number; detail: string })[] = [];
  for (const span of spans) {
    const last = blocks.at(-1);
    const same = last && last.name === span.name && last.lane === span.lane && last.step === span.step;
    if (!same || span.begin - last.end > gap) {
      blocks.push({ ...span });
      continue;
    }
    last.end = Math.max(last.end, span.end);
    if (last.detail !== span.detail) last.detail = "";
    if (span.bytes !== undefined) last.bytes = (last.bytes ?? 0) + span.bytes;
  }
  return blocks.map(({ lane, name, step, begin, end, detail, bytes }) => ({
    lane,
    name,
    step,
    begin: round(begin - start),
    end: round(end - start),
    ...detail && { detail },
    ...bytes !== undefined && { bytes },
  }));
}

interface Row {
  readonly label: string;
  readonly device: TimelineSpan["device"];
  /** Devices first. */
  readonly order: number;
  readonly spans: Grown[];
}

/** One row for each device and one for the host; what overlaps in one of them goes into a further row below it. */
function rowsOf(spans: readonly Grown[]): Row[] {
  const groups = new Map<TimelineSpan["device"], Grown[][]>();
  for (const span of spans) {
    const tracks = groups.get(span.device) ?? [];
    const free = tracks.find((track) => track.at(-1)!.end <= span.begin);
    if (free) free.push(span);
    else tracks.push([span]);
    groups.set(span.device, tracks);
  }
  const place = (device: TimelineSpan["device"]) => device === "host" ? Infinity : device;
  return [...groups].sort(([a], [b]) => place(a) < place(b) ? -1 : 1).flatMap(([device, tracks]) =>
    tracks.map((spans, i) => ({
      label: `${device === "host" ? "host" : `device ${device}`}${i ? ` (${i + 1})` : ""}`,
      device,
      spans,
    }))
  ).map((row, order) => ({ ...row, order }));
}

/** Stretches that at least one of the intervals covers; gaps up to `gap` are closed. */
function union(intervals: readonly Interval[], gap: number): Interval[] {
  const out: { begin: number; end: number }[] = [];
  for (const { begin, end } of intervals.toSorted((a, b) => a.begin - b.begin)) {
    const last = out.at(-1);
    if (last && begin - last.end <= gap) last.end = Math.max(last.end, end);
    else out.push({ begin, end });
  }
  return out;
}

/**
 * The share of the shorter busy time during which the other one was busy too: 1 when it lies wholly inside, 0 when they take
 * turns or one of them is empty.
 */
export function overlap(a: readonly Interval[], b: readonly Interval[]): number {
  const [one, two] = [union(a, 0), union(b, 0)];
  const length = (all: readonly Interval[]) => all.reduce((n, { begin, end }) => n + end - begin, 0);
  const common = one.reduce(
    (n, x) =>
      n + two.reduce((m, y) => m + Math.max(0, Math.min(x.end, y.end) - Math.max(x.begin, y.begin)), 0),
    0,
  );
  const shorter = Math.min(length(one), length(two));
  return shorter > 0 ? common / shorter : 0;
}
