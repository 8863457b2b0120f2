/**
 * `deno task gpu [--minutes N] [--only REGEX] [--emulation] [--out NAME]`: the probe, the checks and the bench in one go, those parts
 * first that are worth most, for as many minutes as there are; the rest is left out and said so. Writes NAME.json and NAME.md, a table for
 * `docs/gpu.md`; both are written after every part.
 */
import { parseArgs } from "node:util";
import { hasTorch } from "../bench/gpu_parts.ts";
import { benchText, type Outcome, runPart } from "../bench/parts.ts";
import { gpuParts } from "./gpu_order.ts";
import { prepareGpu } from "./gpu_run.ts";

/** A part is not begun with less. */
const LEAST_SECONDS = 20;

/** A line of the table. */
interface Row {
  readonly name: string;
  readonly text: string;
  readonly seconds: number;
}

/** "3fc4a30", of the sources or of the bundle that they are in. */
async function commit(): Promise<string> {
  const file = await Deno.readTextFile(new URL("../COMMIT", import.meta.url)).catch(() => "");
  if (file) return file.trim();
  const args = ["-C", new URL("../", import.meta.url).pathname, "rev-parse", "--short", "HEAD"];
  const { success, stdout } = await new Deno.Command("git", { args, stderr: "null" }).output()
    .catch(() => ({ success: false, stdout: new Uint8Array() }));
  return success ? new TextDecoder().decode(stdout).trim() : "unknown";
}

const { values: flags } = parseArgs({
  options: {
    minutes: { type: "string", default: "12" },
    only: { type: "string", default: "" },
    emulation: { type: "boolean", default: false },
    out: { type: "string", default: "build/gpu" },
  },
});
const start = performance.now(), minutes = Number(flags.minutes);
if (!(minutes > 0)) {
  console.error(`Cannot run the GPU's checks: --minutes is "${flags.minutes}", give a number above 0`);
  Deno.exit(2);
}
const left = () => 60 * minutes - (performance.now() - start) / 1000;
const lacking = await prepareGpu(flags.emulation);
if (lacking !== null) {
  console.error(`Cannot run the GPU's checks: ${lacking}`);
  Deno.exit(2);
}
const python = Deno.env.get("BATON_PEER_PYTHON") ?? "python3", torch = await hasTorch(python);

const wanted = new RegExp(flags.only);
const all = gpuParts({ emulation: flags.emulation, python: torch ? python : null });
const parts = all.filter(({ name }) => wanted.test(name));

const outcomes: Outcome[] = [], skipped: string[] = [];
/** Bytes a second of this card, which floors are made from: they are stated for another one. */
function takeCeilings(o: Outcome): void {
  const line = o.lines.find((l) => String(l.what).startsWith("device to device"));
  if (line && !flags.emulation && !Deno.env.get("BATON_GPU_TBPS")) {
    Deno.env.set("BATON_GPU_TBPS", String(Number(line["GBps"]) / 1000));
  }
}

/** The name of a part among its kind, as peers are looked for. */
const short = (o: Outcome): Outcome => {
  const name = o.part.replace(/^\w+: /, "");
  return { ...o, part: name.startsWith("transformers") ? `  ${name}` : name };
};
const rowOf = (o: Outcome): Row => ({
  name: o.part,
  seconds: o.seconds,
  text: o.failed === undefined ? benchText(short(o), outcomes.map(short)) : `FAILED: ${o.failed}`,
});

async function write(): Promise<void> {
  const machine = outcomes.find((o) => o.part === "probe: machine")?.lines[0]?.what ?? "an unknown machine";
  const spent = ((performance.now() - start) / 60000).toFixed(1);
  const about = { date: new Date().toISOString().slice(0, 10), commit: await commit(), machine };
  const escaped = (text: string) => text.replaceAll("|", "\\|");
  const rows = outcomes.map(rowOf).map((r) => `| ${r.name} | ${r.seconds.toFixed(0)} | ${escaped(r.text)} |`);
  const table = [
    `${about.date}, commit ${about.commit}, ${machine}; ${spent} min in all${
      torch ? "" : `; no torch and transformers in ${python}`
    }.`,
    "",
    "| part | seconds | result |",
    "| ---- | ------- | ------ |",
    ...rows,
    ...skipped.length ? ["", `Left out for want of time: ${skipped.join("; ")}.`] : [],
  ].join("\n");
  await Deno.mkdir(flags.out.replace(/[^/]*$/, "") || ".", { recursive: true });
  await Deno.writeTextFile(`${flags.out}.json`, JSON.stringify({ ...about, outcomes, skipped }, null, 1));
  await Deno.writeTextFile(`${flags.out}.md`, `${table}\n`);
}

for (const part of parts) {
  if (left() < LEAST_SECONDS) {
    skipped.push(part.name);
    continue;
  }
  const outcome = await runPart(part, left());
  outcomes.push(outcome);
  if (part.name === "probe: copies") takeCeilings(outcome);
  await write();
}
await write();
const rows = outcomes.map(rowOf), width = Math.max(0, ...rows.map(({ name }) => name.length));
console.log("");
for (const { name, text, seconds } of rows) {
  console.log(`${name.padEnd(width)} ${seconds.toFixed(0).padStart(4)} s  ${text}`);
}
if (skipped.length) console.log(`\nleft out for want of time: ${skipped.join("; ")}`);
console.log(`\nwrote ${flags.out}.json and ${flags.out}.md`);
Deno.exit(outcomes.some((o) => o.failed !== undefined) ? 1 : 0);
