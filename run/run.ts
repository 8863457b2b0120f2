/** `run` and `steps`: a workflow from its first step to its last, with everything that a person sees or finds afterwards. */
import { storageOf } from "../compiler/models/storage.ts";
import type { Workflow } from "../dsl/workflow.ts";
import { merged, mergedParameters, writeAdapter } from "../engine/adapter.ts";
import { claimRunFolder, keepLast, latestCheckpoint } from "../engine/checkpoint.ts";
import { replaceFile } from "../engine/files.ts";
import { saveModel, writeModel } from "../engine/weights.ts";
import { printPlan } from "../planner/plan_file.ts";
import { type Evaluation, evaluationOf, type EvaluationRecord } from "./evaluation.ts";
import { derivedLines } from "./derived.ts";
import { inWorker, plainErrors, runFlags } from "./flags.ts";
import { Interruption } from "./interruption.ts";
import type { RunOptions } from "./options.ts";
import { PlanWatch } from "./plan_watch.ts";
import { mainScript, type Resolved, resolveOptions } from "./resolve.ts";
import { Recorder } from "./recorder.ts";
import { remarks } from "./remarks.ts";
import { plainly, rescue } from "./rescue.ts";
import { sampleRecords } from "./samples.ts";
import { scorersOf } from "./scorers.ts";
import { Session } from "./session.ts";
import { Step } from "./step.ts";

/** What a run came to. */
export interface RunResult {
  readonly steps: number;
  /** Folder with metrics, samples, report, checkpoints and trained models. */
  readonly out: string;
  readonly metrics: Readonly<Record<string, number>>;
  /** Held-out evaluation before the first and after the last step, when the workflow has one; that of a resumed run is kept. */
  readonly before: EvaluationRecord | null;
  readonly after: EvaluationRecord | null;
  /** Ctrl-C ended the run early; its last checkpoint can be resumed. */
  readonly interrupted: boolean;
}

/**
 * Runs a workflow and hands out every step. Flags on the command line of a script that is run directly win over options.
 *
 * @throws one line that says what cannot be done and what to do, before anything is overwritten
 * @example
 * ```ts
 * import { steps, type Workflow } from "@baton/baton";
 *
 * async function watch(workflow: Workflow) {
 *   for await (const { step, metrics } of steps(workflow, { steps: 10 })) console.log(step, metrics.reward);
 * }
 * ```
 */
export async function* steps(workflow: Workflow, options: RunOptions = {}): AsyncGenerator<Step, RunResult> {
  const direct = isDirect(options);
  if (direct) plainErrors();
  if (inWorker()) {
    throw new TypeError(
      `Cannot run ${workflow.name} in a worker, which imports the script for its score functions: ` +
        `begin the run under \`if (import.meta.main)\``,
    );
  }
  const o = await resolveOptions(workflow, direct ? { ...options, ...runFlags() } : options);
  using held = new DisposableStack();
  const session = await openSession(workflow, o, held);
  for (const line of remarks(workflow.graph)) o.note(line);
  try {
    return yield* stepsOf(session, o, held);
  } catch (error) {
    throw plainly(error, o);
  }
}

/** All steps of a session, and what they leave in the output folder; `held` lets go of what writes there. */
async function* stepsOf(
  session: Session,
  o: Resolved,
  held: DisposableStack,
): AsyncGenerator<Step, RunResult> {
  const { workflow } = session;
  const checkpoints = `${o.out}/checkpoints`, latest = o.resume ? await latestCheckpoint(checkpoints) : null;
  await claimRunFolder(o.out, { name: workflow.name, graph: session.main.digest, seed: o.seed }, {
    resume: o.resume,
  });
  if (latest) await session.resume(latest.path);
  await replaceFile(`${o.out}/plan.yaml`, printPlan(session.main.plan));
  const recorder = held.adopt(await Recorder.open(session, o), (r) => r.dispose());
  const interruption = held.adopt(new Interruption(recorder), (i) => i.dispose());
  const save = async () => {
    await recorder.flush();
    const path = await session.save(checkpoints);
    await keepLast(checkpoints, o.keep);
    return path;
  };
  const watch = await PlanWatch.of(session, {
    steps: o.steps,
    replan: o.replan,
    checkpoints,
    record: (r) => recorder.plan(r),
    flush: () => recorder.flush(),
    plan: (yaml) => replaceFile(`${o.out}/plan.yaml`, yaml),
  });
  let metrics: Readonly<Record<string, number>> = {}, ended = false;
  try {
    if (session.completed >= o.steps) {
      recorder.note(
        `${session.completed} steps are done and ${o.steps} are asked for: give more with --steps`,
      );
    } else {
      for (const line of derivedLines(session.main, session.table, storageOf(o.machine))) recorder.note(line);
    }
    const start = session.completed === 0 ? "before" : "resumed";
    const before = recorder.before ?? await evaluateAt(session, recorder, interruption, start);
    while (session.completed < o.steps && !interruption.asked) {
      const hooks = interruption.hooks(recorder.hooks(session.completed + 1));
      let done: Awaited<ReturnType<Session["step"]>>;
      try {
        const next = session.completed + 1, every = workflow.evaluation?.every;
        done = await session.step(hooks, next < o.steps && !(every && next % every === 0));
      } catch (error) {
        if (interruption.cancelled(error)) break;
        throw error;
      }
      metrics = await recorder.step(session.completed, done.batch, done.result);
      await watch?.add(done.batch, metrics, session.completed < o.steps && !interruption.asked);
      const every = workflow.evaluation?.every;
      if (every && session.completed % every === 0 && session.completed < o.steps) {
        await evaluateAt(session, recorder, interruption, "between");
      }
      if (o.saveEvery && session.completed % o.saveEvery === 0 && session.completed < o.steps) {
        await save();
      }
      const { completed } = session, { batch } = done;
      yield new Step(
        completed,
        metrics,
        batch,
        () => sampleRecords(workflow.graph, batch, completed, batch.sequences, session),
      );
    }
    await session.settle();
    const checkpoint = await save();
    const after = await evaluateAt(session, recorder, interruption, "after");
    // Decided once: from here on the run is done, whatever is pressed while it writes.
    const stopped = interruption.end();
    if (!stopped) await exportModels(session, o);
    await recorder.finish({ before, after, prediction: watch?.prediction ?? null });
    if (stopped) {
      console.error(
        `Stopped after step ${session.completed} of ${o.steps}: add --resume to the same command to go on from ${checkpoint}`,
      );
    }
    ended = true;
    return { steps: session.completed, out: o.out, metrics, before, after, interrupted: stopped };
  } finally {
    // Something failed, or who reads the steps wants no more of them.
    if (!ended) {
      recorder.leave();
      await rescue(session, o, save);
    }
  }
}

/**
 * Runs a workflow to its last step: progress and a table on stderr; metrics.jsonl, samples.jsonl, evaluations.jsonl, report.html,
 * checkpoints and the trained models under `out`. Flags on the command line (`--steps 20 --out runs/x`, see `--help`) win over options.
 *
 * @throws one line that says what cannot be done and what to do, before anything is overwritten
 * @example
 * ```ts
 * import { run, type Workflow } from "@baton/baton";
 *
 * const train = (workflow: Workflow) => run(workflow, { steps: 20, out: "runs/mine" });
 * ```
 */
export async function run(workflow: Workflow, options: RunOptions = {}): Promise<RunResult> {
  const all = steps(workflow, options);
  for (let next = await all.next();; next = await all.next()) {
    if (!next.done) continue;
    // Whoever pressed Ctrl-C does not want what the script does with a whole run; shells expect 128 + SIGINT.
    if (isDirect(options) && next.value.interrupted) Deno.exit(130);
    return next.value;
  }
}

/** A script that is run directly reads flags and ends with one line on an error; the command line does both itself. */
const isDirect = (options: RunOptions): boolean => options.script === undefined && mainScript() !== null;

/**
 * Evaluates a workflow's models on its held-out data and writes nothing: the starting models, or with `resume` the newest
 * checkpoint of `out`.
 *
 * @throws one line when the workflow has no evaluation or its models cannot be loaded
 * @example
 * ```ts
 * import { evaluate, type Workflow } from "@baton/baton";
 *
 * async function judge(workflow: Workflow) {
 *   const { fields } = await evaluate(workflow, { out: "runs/mine", resume: true });
 *   console.log(fields.rewards?.mean);
 * }
 * ```
 */
export async function evaluate(workflow: Workflow, options: RunOptions = {}): Promise<Evaluation> {
  if (!workflow.evaluation) {
    throw new TypeError(
      `Cannot evaluate ${workflow.name}: it has no evaluation, give workflow({ evaluate: { … } })`,
    );
  }
  const o = await resolveOptions(workflow, { steps: 1, ...options });
  using held = new DisposableStack();
  const session = await openSession(workflow, o, held);
  if (o.resume) {
    const latest = await latestCheckpoint(`${o.out}/checkpoints`);
    if (!latest) {
      throw new Error(`Cannot evaluate ${o.out}: it has no checkpoint, give the output folder of a run`);
    }
    await session.resume(latest.path);
  }
  return evaluationOf(session.held!.graph, await session.evaluate({}), workflow.graph);
}

/** A session with its score functions; `held` lets go of both. */
async function openSession(workflow: Workflow, o: Resolved, held: DisposableStack): Promise<Session> {
  const scorers = held.adopt(await scorersOf(workflow, o), (s) => s.dispose());
  const { steps, seed, machine, note } = o;
  return held.adopt(
    await Session.open(workflow, {
      steps,
      seed,
      machine,
      note,
      toolSeconds: o.scoreSeconds,
      scorers: scorers.of,
    }),
    (s) => s.dispose(),
  );
}

async function evaluateAt(
  session: Session,
  recorder: Recorder,
  interruption: Interruption,
  when: EvaluationRecord["when"],
): Promise<EvaluationRecord | null> {
  if (!session.evaluation || interruption.asked) return null;
  try {
    const result = evaluationOf(
      session.held!.graph,
      await session.evaluate(interruption.hooks(recorder.hooks(session.completed))),
      session.main.graph,
    );
    return await recorder.evaluation(when, result);
  } catch (error) {
    if (interruption.cancelled(error)) return null;
    throw error;
  }
}

/**
 * Trained models as Hugging Face files: one goes into the run's folder itself, several go under their names. Adapters go under
 * `adapters`, and their models are merged with them.
 */
async function exportModels(session: Session, o: Resolved): Promise<void> {
  const trained = [...session.engine.homes].filter(([, replica]) => replica.trained);
  for (const [name, replica] of trained) {
    const model = session.models[name]!, { head, lora, checkpoint } = model.spec;
    const folder = trained.length === 1 ? o.out : `${o.out}/${name}`;
    const { parameters } = session.engine.models[name]!, source = replica.reader();
    const write = trained.length === 1 ? writeModel : saveModel;
    if (lora) {
      await writeAdapter(`${o.out}/adapters/${name}`, { lora, head, checkpoint, parameters }, source);
      if (o.saveLora === "adapter") continue;
    }
    await write(folder, {
      config: model.json,
      head,
      parameters: lora ? mergedParameters(parameters) : parameters,
      source: lora ? merged({ lora, parameters }, source) : source,
      dtype: o.saveDtype,
      tokenizerFolder: model.folder,
    });
  }
}
