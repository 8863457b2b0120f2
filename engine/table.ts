/** Plain text tables for terminals. */

/** One column: its title, and whether its cells are numbers (aligned right) or text (aligned left). */
export interface Column {
  readonly title: string;
  readonly align?: "left" | "right";
}

// deno-lint-ignore no-control-regex
const STYLE = /\x1b\[[0-9;]*m/g;

/** Columns that a text takes on a terminal: wide characters count twice, combining ones and colours not at all. */
export function displayWidth(text: string): number {
  let width = 0;
  for (const character of text.replace(STYLE, "")) {
    if (/\p{M}|\u200d|\ufe0f/u.test(character)) continue;
    width +=
      /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Extended_Pictographic}/u
          .test(character)
        ? 2
        : 1;
  }
  return width;
}

/**
 * Lines of a table: titles, a rule, rows; columns are two spaces apart. Throws RangeError when a row has another number
 * of cells than there are columns.
 */
export function table(columns: readonly Column[], rows: readonly (readonly string[])[]): string {
  rows.forEach((row, i) => {
    if (row.length !== columns.length) {
      throw new RangeError(
        `Cannot print a table: row ${i + 1} has ${row.length} cells and there are ${columns.length} columns`,
      );
    }
  });
  const widths = columns.map(({ title }, c) =>
    Math.max(displayWidth(title), ...rows.map((row) => displayWidth(row[c]!)))
  );
  const line = (cells: readonly string[]) =>
    cells.map((cell, c) => {
      const space = " ".repeat(widths[c]! - displayWidth(cell));
      return columns[c]!.align === "right" ? space + cell : cell + space;
    }).join("  ").trimEnd();
  return [
    line(columns.map(({ title }) => title)),
    line(widths.map((width) => "─".repeat(width))),
    ...rows.map(line),
  ].join("\n");
}

/** A number in at most about six characters: 0.0123, 12.3, 1.23e-7, 4,096. */
export function shortNumber(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return value.toLocaleString("en-US");
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(3)));
}

/** Bytes with a binary unit: 512 B, 1.5 MiB. */
export function shortBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0, value = bytes;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ${units[unit]}`;
}

/** A time span: 0.42 s, 12.3 s, 4:05, 1:02:03. */
export function shortTime(seconds: number): string {
  if (!Number.isFinite(seconds)) return "?";
  if (seconds < 59.95) return `${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const two = (n: number) => String(n).padStart(2, "0");
  const minutes = Math.floor(whole / 60) % 60, hours = Math.floor(whole / 3600);
  return hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}
