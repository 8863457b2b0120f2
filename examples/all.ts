/**
 * Runs every algorithm for a few steps on the tiny task and prints one row each: what its metric was at the beginning, at
 * the end, and how long it took. `deno task examples`, or `deno task examples grpo dpo`.
 */
import { COUPLETS, POLICY, PREFERENCES } from "./couplets/task.ts";
import { serveJudge } from "./http_judge.ts";

/** An example as it is tried out. */
export interface Example {
  readonly script: string;
  /** Name in metrics.jsonl of what should get better. */
  readonly metric: string;
  readonly better: "higher" | "lower";
  readonly steps: number;
  readonly args?: (context: Context) => readonly string[];
  /** A script that has to run before; its output folder is the context's `before`. */
  readonly after?: string;
}
interface Context {
  readonly judge: string;
  readonly before: string;
}

const each = (better: Example["better"], metric: string, steps: number, scripts: readonly string[]) =>
  scripts.map((script): Example => ({ script, metric, better, steps }));
const higher = (metric: string, steps: number, ...scripts: readonly string[]) =>
  each("higher", metric, steps, scripts);

export const EXAMPLES: readonly Example[] = [
  { script: "sft", metric: "actor/loss", better: "lower", steps: 10, args: () => from(COUPLETS) },
  { script: "reward", metric: "reward/loss", better: "lower", steps: 12, args: () => from(PREFERENCES) },
  ...higher("reward/accuracy", 12, "reward_pairs"),
  { script: "ppo", metric: "reward", better: "higher", steps: 10, args: () => ["--batch", "128"] },
  ...higher("reward", 10, "ppo_full", "ppo_ref_ema", "reinforce_pp", "remax"),
  ...higher("reward", 10, "grpo", "grpo_top_p", "dr_grpo", "gspo", "rloo", "dapo"),
  ...higher("reward", 12, "cispo", "best_of_n", "online_dpo", "custom_loss"),
  ...higher("reward/verse", 10, "reward_ensemble"),
  { ...higher("reward", 10, "custom_reward")[0]!, args: ({ judge }) => ["--judge", judge] },
  {
    script: "distillation",
    metric: "student/reverseKl",
    better: "lower",
    steps: 10,
    after: "grpo",
    args: ({ before }) => ["--teacher", before],
  },
  { script: "calculator/warm_up", metric: "actor/loss", better: "lower", steps: 300 },
  {
    ...higher("reward", 12, "multi_turn")[0]!,
    after: "calculator/warm_up",
    args: ({ before }) => ["--model", before],
  },
  ...higher("actor/margin", 8, "dpo", "smoothed_dpo", "robust_dpo", "hinge", "ipo", "kto"),
  ...each("lower", "actor/loss", 12, ["simpo", "cpo", "orpo"]),
];

function from(data: string): readonly string[] {
  return ["--model", POLICY, "--data", data, "--batch", "64", "--lr", "1e-3"];
}

export interface Row {
  readonly example: Example;
  readonly before: number;
  readonly after: number;
  readonly seconds: number;
}
export const improved = ({ example, before, after }: Row): boolean =>
  example.better === "higher" ? after > before : after < before;

const outOf = (folder: string, script: string) => `${folder}/${script.replace("/", "-")}`;

/**
 * Runs examples in processes of their own, some at the same time, each with one thread: their results do not depend on it.
 *
 * @param folder where their outputs go
 * @returns a promise for each; a script that fails rejects with what it said
 */
export function runExamples(
  examples: readonly Example[],
  folder: string,
  atOnce = navigator.hardwareConcurrency,
): readonly Promise<Row>[] {
  const judge = serveJudge(0), done = new Map<string, Promise<Row>>();
  let free = atOnce;
  const waiting: (() => void)[] = [];
  const lease = async <T>(work: () => Promise<T>): Promise<T> => {
    if (free === 0) await new Promise<void>((resolve) => waiting.push(resolve));
    else free--;
    try {
      return await work();
    } finally {
      const next = waiting.shift();
      if (next) next();
      else free++;
    }
  };
  const start = (example: Example): Promise<Row> => {
    const known = done.get(example.script);
    if (known) return known;
    const first = example.after === undefined ? null : EXAMPLES.find((e) => e.script === example.after)!;
    const context = {
      judge: `http://localhost:${judge.addr.port}`,
      before: first ? outOf(folder, first.script) : "",
    };
    const row = (async () => {
      if (first) await start(first);
      return await lease(() => runOne(example, outOf(folder, example.script), context));
    })();
    done.set(example.script, row);
    return row;
  };
  const rows = examples.map(start);
  Promise.allSettled(rows).then(() => judge.shutdown());
  return rows;
}

async function runOne(example: Example, out: string, context: Context): Promise<Row> {
  const script = new URL(`${example.script}.ts`, import.meta.url).pathname, begin = performance.now();
  const own = ["--steps", `${example.steps}`, "--out", out, "--threads", "1", "--quiet"];
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", script, ...own, ...example.args?.(context) ?? []],
    env: { NO_COLOR: "1" },
    stdout: "null",
    stderr: "piped",
  }).output();
  if (!success) throw new Error(`${example.script} failed: ${new TextDecoder().decode(stderr).trim()}`);
  const lines = (await Deno.readTextFile(`${out}/metrics.jsonl`)).trimEnd().split("\n");
  const values = lines.map((line): number => JSON.parse(line)[example.metric]);
  const some = Math.max(1, Math.min(3, Math.floor(values.length / 3)));
  const mean = (x: readonly number[]) => x.reduce((a, b) => a + b, 0) / x.length;
  return {
    example,
    before: mean(values.slice(0, some)),
    after: mean(values.slice(-some)),
    seconds: (performance.now() - begin) / 1000,
  };
}

async function main(wanted: readonly string[]): Promise<number> {
  const chosen = wanted.length ? EXAMPLES.filter((e) => wanted.includes(e.script)) : EXAMPLES;
  const unknown = wanted.filter((name) => !EXAMPLES.some((e) => e.script === name));
  if (unknown.length) {
    console.error(
      `error: Cannot run ${unknown.join(", ")}: choose from ${EXAMPLES.map((e) => e.script).join(", ")}`,
    );
    return 2;
  }
  const folder = await Deno.makeTempDir({ prefix: "baton-examples-" }),
    cell = (x: number) => x.toFixed(3).padStart(8);
  let bad = 0;
  console.log(`${"example".padEnd(20)}${"metric".padEnd(20)}  before   after  seconds`);
  try {
    const rows = runExamples(chosen, folder);
    for (const [i, row] of rows.entries()) {
      const name = chosen[i]!.script.padEnd(20);
      try {
        const r = await row, mark = improved(r) ? "" : "  not better";
        if (mark) bad++;
        console.log(
          `${name}${r.example.metric.padEnd(20)}${cell(r.before)}${cell(r.after)}${
            r.seconds.toFixed(1).padStart(9)
          }${mark}`,
        );
      } catch (error) {
        bad++;
        console.log(`${name}${(error as Error).message}`);
      }
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  return bad ? 1 : 0;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
