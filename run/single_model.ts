/** One language model on a device with programs of its own, outside any workflow. */
import { parameterBytes, parameters } from "../compiler/models/transformer.ts";
import { Device } from "../ffi/device.ts";
import { Engine } from "../engine/engine.ts";
import { baseName } from "../engine/files.ts";
import type { Maxima, Segment } from "../ir/op.ts";
import type { Program } from "../ir/program.ts";
import type { MemoryRow } from "../planner/memory.ts";
import { memory } from "./available.ts";
import { refuseTooLarge } from "./memory.ts";
import { engineModel, type LoadedModel, loadModel } from "./models.ts";

export const NONE: Maxima = { one: 1, tokens: 0, actions: 0, sequences: 0, groups: 0, pairs: 0 };

/** A model on a device with its programs. `held` disposes of both, and of what is added to it. */
export async function openModel(folder: string, threads: number, programs: (m: LoadedModel) => Program[]) {
  const model = await loadModel(baseName(folder), { head: "lm", checkpoint: folder, optimizer: null });
  const compiled = programs(model);
  using held = new DisposableStack();
  const device = held.use(Device.open({ threads }));
  refuseTooLarge(
    `load ${folder}`,
    rowsOf(model, compiled, device.scratchBytes),
    memory().availableBytes,
    "use shorter sequences or a smaller model",
  );
  const engine = await Engine.create(device, {
    models: { model: engineModel(model, most(compiled, "constants") / (4 * model.config.headDim)) },
    states: {},
    arenaBytes: most(compiled, "arena"),
    prologue: [{ op: "load", replica: "model@0", model: "model" }],
  });
  held.adopt(engine, (e) => e.dispose());
  return {
    model,
    compiled,
    device,
    engine,
    shared: { arena: engine.arena, ...engine.replicas.get("model")!.segments },
    held: held.move(),
  };
}

export const most = (programs: readonly Program[], segment: Segment): number =>
  Math.max(...programs.map((p) => p.segmentBytes[segment]));

/** Programs share the model, the arena, cache and state; inputs and outputs are each one's own. */
function rowsOf(model: LoadedModel, programs: readonly Program[], scratch: number): MemoryRow[] {
  const row = (name: string, bytes: number): MemoryRow => ({ name, bytes, where: "device" });
  const own = programs.reduce((n, p) => n + p.segmentBytes.inputs + p.segmentBytes.outputs, 0);
  return [
    row("params", parameterBytes(parameters(model.config, "lm"))),
    ...(["constants", "arena", "kv", "state"] as const).map((s) => row(s, most(programs, s))),
    row("inputs and outputs", own),
    row("scratch", scratch),
  ];
}

/** @throws RangeError for an id that the model has no embedding of */
export function checkIds(m: LoadedModel, ids: Int32Array): void {
  const bad = ids.find((id) => id < 0 || id >= m.config.vocab);
  if (bad !== undefined) {
    throw new RangeError(
      `Cannot use token id ${bad}: the model's vocabulary has ids 0 to ${
        m.config.vocab - 1
      }, give ids of that range`,
    );
  }
}
