/**
 * Version-typed memory (DESIGN §1.7): replicas, caches and samples carry the version of the weights that made them, and a call
 * refuses what is older than its workflow accepts. Stale weights cannot be used by accident.
 */
import type { CallGraph, ModelFunctionCall } from "../ir/graph.ts";
import type { TokenColumn } from "./batch.ts";
import type { Replica } from "./replica.ts";

export class StepVersions {
  /** Version of every model when the step began: training inside the step does not make its own samples stale. */
  #began: ReadonlyMap<string, number> = new Map();

  /** @param homes the newest weights of every model */
  constructor(
    readonly graph: CallGraph,
    readonly homes: () => ReadonlyMap<string, Pick<Replica, "version">>,
  ) {}

  begin(): void {
    this.#began = new Map([...this.homes()].map(([name, replica]) => [name, replica.version ?? 0]));
  }

  /** How many versions each sample was behind the weights that the step began with; null where nothing may lag. */
  lags(column: TokenColumn): Float32Array | null {
    const now = column.model === undefined ? undefined : this.#began.get(column.model);
    if (now === undefined || !column.maxLag) return null;
    return Float32Array.from(column.versions, (version) => now - version);
  }

  /** Versions that a model makes in a step. */
  #made(model: string): number {
    return this.graph.calls.filter((c) => c.kind === "train" && c.model === model).length;
  }

  /** Throws when a sample is older than the generate call's `maxLag` allows, or newer than its weights are now. */
  check(call: ModelFunctionCall, column: TokenColumn): void {
    const maker = column.model;
    if (maker === undefined) return;
    const lag = (column.maxLag ?? 0) * this.#made(maker), now = this.#began.get(maker)!;
    // A step may sample from what it has trained.
    const newest = this.homes().get(maker)!.version ?? 0;
    const bad = column.versions.findIndex((v) => now - v > lag || v > newest);
    if (bad < 0) return;
    const version = column.versions[bad]!,
      steps = Math.ceil((now - version) / Math.max(1, this.#made(maker)));
    throw new Error(
      `Cannot run ${call.id}: sample ${bad} was made by version ${version} of ${maker} and this step began with version ` +
        `${now}, generate it again` + (steps > 0 ? ` or declare generate({ maxLag: ${steps} })` : ""),
    );
  }
}

/** Throws when a replica holds no weights, or older ones than the call may run on. */
export function checkReplica(
  call: ModelFunctionCall,
  replica: Pick<Replica, "name" | "version" | "spec">,
  home: Pick<Replica, "version">,
): void {
  const { version, name, spec } = replica, newest = home.version ?? 0;
  if (version !== null && newest - version <= spec.lag && version <= newest) return;
  throw new Error(
    `Cannot run ${call.id}: ${name} holds ${
      version === null ? "no weights" : `version ${version} of ${call.model}`
    } and the newest is ${newest}` + (spec.lag ? `, which may be ${spec.lag} ahead` : "") +
      `, bring it up to date with a reallocation before the call`,
  );
}
