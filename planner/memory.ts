/** The byte table of a run: what the engine allocates, to the byte, and what a plan is refused for. */
import { gradientBytes, parameterBytes } from "../compiler/models/transformer.ts";
import type { Programs } from "../compiler/programs.ts";
import type { Parameter, Program } from "../ir/program.ts";
import type { Segment } from "../ir/op.ts";

export interface MemoryRow {
  /** "actor params", "arena", "host batch". */
  readonly name: string;
  readonly bytes: number;
  readonly where: "device" | "host";
}

export interface ModelMemory {
  readonly parameters: readonly Parameter[];
  readonly trained: boolean;
  readonly constants: number;
}

/** All programs of one device share one arena; a call's inputs and outputs are its own. */
export function memoryTable(
  stages: readonly Programs[],
  models: Readonly<Record<string, ModelMemory>>,
  extra: {
    readonly scratch: number;
    readonly host: readonly { readonly name: string; readonly bytes: number }[];
  },
): MemoryRow[] {
  const rows: MemoryRow[] = [];
  const device = (name: string, bytes: number) => {
    if (bytes) rows.push({ name, bytes, where: "device" });
  };
  for (const [name, m] of Object.entries(models)) {
    const bytes = parameterBytes(m.parameters);
    device(`${name} params`, bytes);
    device(`${name} constants`, m.constants);
    if (m.trained) {
      device(`${name} grads`, gradientBytes(m.parameters));
      device(`${name} moments`, 2 * bytes);
    }
  }
  device("arena", Math.max(...stages.map(arenaBytes)));
  for (const programs of stages) {
    for (const [call, g] of Object.entries(programs.generate)) {
      device(`${call} kv`, g.decode.segmentBytes.kv);
      device(`${call} state`, Math.max(g.prefill.segmentBytes.state, g.decode.segmentBytes.state));
    }
    for (const [call, program] of eachProgram(programs)) device(`${call} inputs and outputs`, own(program));
  }
  device("scratch", extra.scratch);
  for (const h of extra.host) rows.push({ ...h, where: "host" });
  return rows;
}

export const arenaBytes = (programs: Programs): number =>
  Math.max(0, ...eachProgram(programs).map(([, p]) => p.segmentBytes.arena));

const own = (p: Program): number =>
  (["inputs", "outputs", "saved"] satisfies Segment[]).reduce((n, s) => n + p.segmentBytes[s], 0);

export function eachProgram(programs: Programs): [string, Program][] {
  return [
    ...Object.entries(programs.generate).flatMap(([id, g]): [string, Program][] => [
      [`${id} prefill`, g.prefill],
      [`${id} decode`, g.decode],
      [`${id} copy`, g.copyPages],
    ]),
    ...Object.entries(programs.infer),
    ...Object.entries(programs.train).map(([id, t]): [string, Program] => [id, t.train]),
    ...Object.entries(programs.update).map(([id, p]): [string, Program] => [`${id} update`, p]),
    ...Object.entries(programs.compute),
  ];
}
