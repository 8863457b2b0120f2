/** A call graph as a drawing: calls are boxes, fields are lines between them. */
import dagre from "npm:@dagrejs/dagre@3.1.3";
import type { Call } from "../ir/graph.ts";
import { escape } from "../ir/markup.ts";
import type { PrintableGraph } from "../ir/print.ts";

/** Pixels of a letter of the drawing's font, which no library is needed to measure: it is monospaced. */
const LETTER = 7.3, SMALL = 6.1, LINE = 15;
/** Fields on one line of a label. */
const FIELDS = 2;

const FILLS: Readonly<Record<Call["kind"] | "data", readonly [fill: string, stroke: string]>> = {
  data: ["#f3f1ea", "#8d8674"],
  generate: ["#e3edf8", "#3b76b5"],
  infer: ["#e4f2ec", "#3f9a72"],
  train: ["#f9e6ea", "#b9506f"],
  compute: ["#eee9f6", "#7c63b0"],
  score: ["#faf3dc", "#b99a24"],
  select: ["#f6ece0", "#b0763a"],
  refill: ["#f6ece0", "#b0763a"],
};

/** Pairs of neighbours on a line: a call may read many fields of another one. */
const linesOf = (fields: readonly string[]): string[] =>
  Array.from(
    { length: Math.ceil(fields.length / FIELDS) },
    (_, i) => fields.slice(FIELDS * i, FIELDS * (i + 1)).join(", "),
  );

interface Box {
  readonly label: string;
  readonly kind: Call["kind"] | "data";
}

/** The graph as an SVG image of its natural size. Layout by layers (Gansner et al. 1993), as dagre has it. */
export function graphSvg(graph: PrintableGraph): string {
  const g = new dagre.graphlib.Graph({ multigraph: true })
    .setGraph({ rankdir: "TB", nodesep: 28, edgesep: 16, ranksep: 22, marginx: 12, marginy: 12 });
  const boxes = new Map<string, Box>(),
    writers = new Map<string, string>(),
    lines = new Map<string, string[]>();
  const box = (id: string, label: string, kind: Box["kind"]) => {
    boxes.set(id, { label, kind });
    g.setNode(id, { width: LETTER * label.length + 26, height: 30 });
  };
  box("data", graph.source?.path.split("/").at(-1) ?? "data", "data");
  graph.calls.forEach((call, i) => {
    box(`c${i}`, call.id, call.kind);
    for (const field of Object.values(call.writes)) writers.set(field, `c${i}`);
  });
  graph.calls.forEach((call, i) => {
    const read = Map.groupBy(new Set(Object.values(call.reads)), (field) => writers.get(field) ?? "data");
    for (const [from, fields] of read) {
      const label = linesOf(fields), name = `${from} ${i}`;
      lines.set(name, label);
      const width = SMALL * Math.max(...label.map((line) => line.length)) + 8;
      g.setEdge(from, `c${i}`, { width, height: LINE * label.length, labelpos: "c" }, name);
    }
  });
  // What nothing reads or writes would float beside the drawing.
  if (!g.edges().some((e) => e.v === "data")) g.removeNode("data");
  dagre.layout(g);
  const size = g.graph() as { width?: number; height?: number };
  const width = Math.ceil(size.width ?? 0), height = Math.ceil(size.height ?? 0);
  const edges = g.edges().map((e) => edge(g.edge(e) as Routed, lines.get(e.name!)!));
  const nodes = g.nodes().map((id) => node(g.node(id) as Placed, boxes.get(id)!));
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"`,
    ` role="img" aria-label="${escape(graph.name)}" font-family="ui-monospace, Menlo, Consolas, monospace">`,
    `<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">`,
    `<path d="M0 0L8 4L0 8z" fill="#6b7280"/></marker></defs>`,
    `<rect width="${width}" height="${height}" rx="6" fill="#ffffff"/>`,
    ...edges.map((e) => e.line),
    ...nodes,
    ...edges.map((e) => e.label),
    `</svg>`,
  ].join("");
}

interface Placed {
  readonly x: number;
  readonly y: number;
  readonly width: number;
  readonly height: number;
}
interface Routed extends Placed {
  readonly points: readonly Point[];
}

function node({ x, y, width, height }: Placed, { label, kind }: Box): string {
  const [fill, stroke] = FILLS[kind], round = kind === "data" || kind === "compute" ? height / 2 : 4;
  const at = `x="${(x - width / 2).toFixed(1)}" y="${(y - height / 2).toFixed(1)}"`;
  return `<rect ${at} width="${
    width.toFixed(1)
  }" height="${height}" rx="${round}" fill="${fill}" stroke="${stroke}"/>` +
    `<text x="${x.toFixed(1)}" y="${(y + 4).toFixed(1)}" text-anchor="middle" font-size="12" fill="#22262c">${
      escape(label)
    }</text>`;
}

/** Distance from a corner at which a line begins to turn. */
const TURN = 14;

interface Point {
  readonly x: number;
  readonly y: number;
}

/** As far from `p` towards `to` as a turn begins. */
function towards(p: Point, to: Point): Point {
  const length = Math.hypot(to.x - p.x, to.y - p.y), part = length === 0 ? 0 : Math.min(0.5, TURN / length);
  return { x: p.x + part * (to.x - p.x), y: p.y + part * (to.y - p.y) };
}

/** The line goes through its points and turns smoothly; the label lies on it, on white. */
function edge({ points, x, y, width, height }: Routed, label: readonly string[]) {
  const at = (p: Point) => `${p.x.toFixed(1)} ${p.y.toFixed(1)}`;
  const turns = points.slice(1, -1).map((p, i) =>
    `L${at(towards(p, points[i]!))}Q${at(p)} ${at(towards(p, points[i + 2]!))}`
  );
  const path = `M${at(points[0]!)}${turns.join("")}L${at(points.at(-1)!)}`;
  const line = `<path d="${path}" fill="none" stroke="#9aa1ab" marker-end="url(#tip)"/>`;
  const rows = label.map((text, i) =>
    `<text x="${x.toFixed(1)}" y="${
      (y - height / 2 + LINE * i + 11).toFixed(1)
    }" text-anchor="middle" font-size="10" fill="#4b5563">${escape(text)}</text>`
  );
  const back = `<rect x="${(x - width / 2).toFixed(1)}" y="${(y - height / 2).toFixed(1)}" width="${
    width.toFixed(1)
  }" height="${height}" fill="#ffffff" fill-opacity="0.85"/>`;
  return { line, label: back + rows.join("") };
}
