/** Curves of metrics as a drawing that needs no script: what a notebook shows while a run goes. */
import { escape } from "../ir/markup.ts";
import type { StepRecord } from "./metrics.ts";
import { curveNames } from "./report.ts";
import { shortNumber } from "./table.ts";

const WIDTH = 290, HEIGHT = 140, LEFT = 52, TOP = 26, BOTTOM = 20, GAP = 10, COLUMNS = 3;
/** Curves drawn: the most telling ones. */
const SHOWN = 6;
/** Points drawn at most: more than pixels only cost time. */
const POINTS = 240;
/** What says how fast rather than how well. */
const MACHINE = /^(seconds|tokens|mfu|reallocation|parity)/;

/** The most telling metrics over the steps so far. */
export function curvesSvg(steps: readonly StepRecord[]): string {
  const all = curveNames(steps).filter((name) => !MACHINE.test(name)).slice(0, SHOWN);
  const columns = Math.min(COLUMNS, Math.max(1, all.length)), rows = Math.ceil(all.length / columns);
  const width = columns * (WIDTH + GAP), height = rows * (HEIGHT + GAP);
  const charts = all.map((name, i) =>
    `<g transform="translate(${(i % columns) * (WIDTH + GAP)} ${Math.floor(i / columns) * (HEIGHT + GAP)})">${
      chart(name, steps)
    }</g>`
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" ` +
    `font-family="system-ui, sans-serif" font-size="11">${charts.join("")}</svg>`;
}

function chart(name: string, steps: readonly StepRecord[]): string {
  const given = steps.flatMap((r): [number, number][] => {
    const value = r[name];
    return typeof value === "number" && Number.isFinite(value) ? [[r.step, value]] : [];
  });
  const every = Math.ceil(given.length / POINTS), last = given.at(-1);
  const points = given.filter((_, i) => i % every === 0 || i === given.length - 1);
  let low = Math.min(...points.map((p) => p[1])), high = Math.max(...points.map((p) => p[1]));
  // A tenth of the smallest numbers is 0.
  const margin = Math.abs(low) * 0.1 || 0.1;
  if (!(high > low)) [low, high] = [low - margin, high + margin];
  const first = points[0]?.[0] ?? 0, end = last?.[0] ?? 1;
  const x = (step: number) =>
    LEFT + (end === first ? 0.5 : (step - first) / (end - first)) * (WIDTH - LEFT - 10);
  const y = (value: number) => HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
  const path = points.map(([s, v], i) => `${i ? "L" : "M"}${x(s).toFixed(1)} ${y(v).toFixed(1)}`).join("");
  const level = (value: number) =>
    `<line x1="${LEFT}" x2="${WIDTH - 10}" y1="${y(value).toFixed(1)}" y2="${
      y(value).toFixed(1)
    }" stroke="#e3e1da"/>` +
    label(LEFT - 6, y(value) + 4, shortNumber(value), `text-anchor="end" fill="#6b7280"`);
  const dot = last
    ? `<circle cx="${x(last[0]).toFixed(1)}" cy="${y(last[1]).toFixed(1)}" r="3" fill="#0f766e"/>`
    : "";
  return `<rect width="${WIDTH}" height="${HEIGHT}" rx="5" fill="#ffffff" stroke="#e3e1da"/>` +
    label(10, 17, name, `font-weight="600" fill="#22262c"`) +
    label(WIDTH - 10, 17, last ? shortNumber(last[1]) : "", `text-anchor="end" fill="#0f766e"`) +
    (points.length ? level(low) + level(high) : "") +
    label(LEFT, HEIGHT - 5, `${first}`, `fill="#6b7280"`) +
    label(WIDTH - 10, HEIGHT - 5, `step ${end}`, `text-anchor="end" fill="#6b7280"`) +
    `<path d="${path}" fill="none" stroke="#0f766e" stroke-width="1.6" stroke-linejoin="round"/>${dot}`;
}

const label = (x: number, y: number, text: string, more: string): string =>
  `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${more}>${escape(text)}</text>`;
