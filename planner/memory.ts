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
  const calls = new Map<string, number>();
  for (const [name, bytes] of Object.entries(callBytes(stages))) {
    const row = name.replace(/ (inputs|outputs|saved)$/, " inputs and outputs");
    calls.set(row, (calls.get(row) ?? 0) + bytes);
  }
  for (const [name, bytes] of calls) device(name, bytes);
  device("scratch", extra.scratch);
  for (const h of extra.host) rows.push({ ...h, where: "host" });
  return rows;
}

export const arenaBytes = (programs: Programs): number =>
  Math.max(0, ...eachProgram(programs).map(([, p]) => p.segmentBytes.arena));

/**
 * Bytes of what calls keep from one submission to the next, by the names of `engine/call_memory.ts`. Stages (the step, the
 * evaluation) never run at the same time: a call that several have keeps one memory, as large as the largest asks for.
 */
export function callBytes(stages: readonly Programs[]): Record<string, number> {
  const sizes: Record<string, number> = {};
  const atLeast = (name: string, bytes: number) => {
    if (bytes) sizes[name] = Math.max(sizes[name] ?? 0, bytes);
  };
  for (const programs of stages) {
    for (const [call, g] of Object.entries(programs.generate)) {
      atLeast(`${call} kv`, g.decode.segmentBytes.kv);
      atLeast(`${call} state`, Math.max(g.prefill.segmentBytes.state, g.decode.segmentBytes.state));
    }
    for (const [name, program] of eachProgram(programs)) {
      for (const s of ["inputs", "outputs", "saved"] satisfies Segment[]) {
        atLeast(`${name} ${s}`, program.segmentBytes[s]);
      }
    }
  }
  return sizes;
}

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
