/** What the reallocations of a run came to, over its steps. */
import type { ReallocationReport } from "../engine/reallocation.ts";
import type { ReallocationRow } from "../engine/report_tables.ts";

export class ReallocationLog {
  readonly #rows = new Map<string, ReallocationRow>();

  add(reports: readonly ReallocationReport[]): void {
    for (const { from, to, bytes, minimum, received, seconds } of reports) {
      const key = `${from} ${to}`, { times, seconds: mean } = this.#rows.get(key) ?? { times: 0, seconds: 0 };
      const seen = times + 1;
      const most = Math.max(0, ...received.values());
      this.#rows.set(key, {
        from,
        to,
        bytes,
        minimum,
        most,
        seconds: mean + (seconds - mean) / seen,
        times: seen,
      });
    }
  }

  /** One row for each pair of replicas: means over all times. */
  get rows(): readonly ReallocationRow[] {
    return [...this.#rows.values()];
  }
}

/** What a step's metrics say of them; nothing where there were none. */
export function reallocationMetrics(reports: readonly ReallocationReport[]): Record<string, number> {
  if (!reports.length) return {};
  const sum = (of: (r: ReallocationReport) => number) => reports.reduce((n, r) => n + of(r), 0);
  return { "seconds/reallocation": sum((r) => r.seconds), "reallocation/bytes": sum((r) => r.bytes) };
}
