/** Pieces of HTML that the report and notebooks share. */
import { escape } from "../ir/markup.ts";
import type { Column } from "./table.ts";

/** A table of the report; a row whose first cell is "total" is set off. */
export interface ReportTable {
  readonly title: string;
  readonly columns: readonly Column[];
  readonly rows: readonly (readonly string[])[];
}

/**
 * A table with its title.
 *
 * @param o.alone whether no style sheet of ours is there: a notebook aligns cells to the right
 */
export function tableHtml(
  { title, columns, rows }: ReportTable,
  o: { readonly alone?: boolean } = {},
): string {
  const side = (c: number) => {
    if (columns[c]?.align === "right") return ' class="right"';
    return o.alone ? ' style="text-align:left"' : "";
  };
  const head = columns.map((column, c) => `<th${side(c)}>${escape(column.title)}</th>`).join("");
  const body = rows.map((row) =>
    `<tr${row[0] === "total" ? ' class="total"' : ""}>${
      row.map((cell, c) => `<td${side(c)}>${escape(cell)}</td>`).join("")
    }</tr>`
  ).join("\n");
  return `<div class="scroll"><table><caption>${escape(title)}</caption><thead><tr>${head}</tr></thead>
<tbody>${body}</tbody></table></div>`;
}
