/** Lines per folder, largest first: `deno task size`. Blank lines and comments count; golden files do not. */
import { readSources } from "./source.ts";

if (import.meta.main) {
  const sources = await readSources(new URL("../", import.meta.url), [".ts", ".cpp", ".cu", ".h", ".cuh"]);
  const folders = new Map<string, { files: number; lines: number; longest: string; most: number }>();
  for (const { path, text } of sources) {
    const folder = path.includes("/") ? `${path.split("/")[0]}/` : "(root)";
    const row = folders.get(folder) ?? { files: 0, lines: 0, longest: "", most: 0 };
    const lines = text.split("\n").length - 1;
    const longer = lines > row.most;
    folders.set(folder, {
      files: row.files + 1,
      lines: row.lines + lines,
      longest: longer ? path : row.longest,
      most: longer ? lines : row.most,
    });
  }
  const rows = [...folders].sort(([, a], [, b]) => b.lines - a.lines);
  console.log("folder      files   lines   longest file");
  for (const [folder, { files, lines, longest, most }] of rows) {
    console.log(
      `${folder.padEnd(10)} ${String(files).padStart(6)} ${String(lines).padStart(7)}   ${longest} (${most})`,
    );
  }
  const total = rows.reduce((sum, [, row]) => sum + row.lines, 0);
  console.log(`${"total".padEnd(10)} ${String(sources.length).padStart(6)} ${String(total).padStart(7)}`);
}
