/** Who works when, as a drawing: one row a device. */
import { escape } from "../ir/markup.ts";

export interface GanttBlock {
  /** What it is a part of: blocks of one name have one colour. */
  readonly name: string;
  readonly begin: number;
  readonly end: number;
  /** What is said of it beside its name when the pointer is on it. */
  readonly detail: string;
  /** A thin mark rather than a block of its own. */
  readonly mark?: boolean;
}
export interface GanttRow {
  readonly label: string;
  readonly blocks: readonly GanttBlock[];
}

const COLORS = ["#3b76b5", "#d98a3a", "#3f9a72", "#b9506f", "#7c63b0", "#b99a24", "#3a9fb0", "#8d6e57"];
const LEFT = 84, WIDTH = 860, ROW = 26, TOP = 10, LETTER = 6.4;

/**
 * Rows below each other, with a legend.
 *
 * @param caption what the horizontal axis is, below the drawing
 */
export function ganttSvg(rows: readonly GanttRow[], caption: string): string {
  const end = Math.max(0, ...rows.flatMap((row) => row.blocks.map((b) => b.end))) || 1;
  const names = [...new Set(rows.flatMap((row) => row.blocks.flatMap((b) => b.mark ? [] : [b.name])))];
  const color = (name: string) => COLORS[names.indexOf(name) % COLORS.length]!;
  const x = (t: number) => LEFT + t / end * (WIDTH - LEFT - 10);
  const parts: string[] = [];
  rows.forEach(({ label, blocks }, i) => {
    const top = TOP + ROW * i;
    parts.push(text(LEFT - 10, top + 17, label, `text-anchor="end"`));
    parts.push(
      `<rect x="${LEFT}" y="${top + 2}" width="${WIDTH - LEFT - 10}" height="${ROW - 4}" fill="#f3f1ea"/>`,
    );
    for (const block of blocks) {
      const from = x(block.begin), width = Math.max(block.mark ? 2 : 1, x(block.end) - from);
      const title = `<title>${escape([block.name, block.detail].filter((t) => t !== "").join(", "))}</title>`;
      const [y, height, fill] = block.mark ? [top, ROW, "#22262c"] : [top + 2, ROW - 4, color(block.name)];
      const at = `x="${from.toFixed(1)}" y="${y}" width="${width.toFixed(1)}" height="${height}"`;
      parts.push(`<rect ${at} fill="${fill}" stroke="#ffffff" stroke-width="0.5">${title}</rect>`);
      if (!block.mark && LETTER * block.name.length + 8 < width) {
        parts.push(
          text(
            from + width / 2,
            top + 17,
            block.name,
            `text-anchor="middle" fill="#ffffff" pointer-events="none"`,
          ),
        );
      }
    }
  });
  let at = LEFT;
  const legend = TOP + ROW * rows.length + 22;
  for (const name of names) {
    parts.push(`<rect x="${at}" y="${legend - 9}" width="10" height="10" fill="${color(name)}"/>`);
    parts.push(text(at + 15, legend, name));
    at += LETTER * name.length + 36;
  }
  parts.push(text(LEFT, legend + 20, caption, `fill="#6b7280"`));
  const height = legend + 30, width = Math.max(WIDTH, Math.ceil(at));
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" ` +
    `font-family="ui-monospace, Menlo, Consolas, monospace" font-size="11">` +
    `<rect width="${width}" height="${height}" fill="#ffffff"/>${parts.join("")}</svg>`;
}

const text = (x: number, y: number, words: string, more = ""): string =>
  `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" ${more}>${escape(words)}</text>`;
