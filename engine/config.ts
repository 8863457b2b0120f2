/** The YAML file of a run: the machine and how long to run. The algorithm is in the script. */
import * as z from "npm:zod@4.6.7";
import { type Precision, PRECISIONS } from "../compiler/models/storage.ts";
import { parseDevices, parseStrategy } from "../ir/notation.ts";
import { RECOMPUTE, type Recompute } from "../ir/plan.ts";
import { readTextOrNull } from "./files.ts";
import { parse } from "./yaml.ts";

/** What a configuration file says, defaults filled in. Everything is optional in the file. */
export interface Config {
  readonly run: {
    /** Steps to run to; the command line may say it instead. */
    readonly steps?: number | undefined;
    /** Steps between checkpoints; 0 writes only the last. */
    readonly saveEvery: number;
    /** Checkpoints that are kept. */
    readonly keep: number;
    /** Output folder; the command line may say it instead. */
    readonly out?: string | undefined;
    readonly seed: number;
    /** Samples of every step that are written to samples.jsonl. */
    readonly logSamples: number;
    /** What parameters, activations and KV pages are stored in; bf16 on GPUs and fp32 on the CPU when absent. */
    readonly precision?: Precision | undefined;
    /** What gradients are stored in where `precision` is "bf16"; fp32 when absent. */
    readonly gradients?: Precision | undefined;
  };
  /** Kind and number of devices: "cpu:8", or "cpu:2x4" for 2 nodes of 4, "cuda:0,1" for GPUs, "cuda:0x4" for 4 devices on one; the
   * cluster's, or one virtual device, when absent. */
  readonly devices?: string | undefined;
  /** Threads of all devices together; all cores when absent. */
  readonly threads?: number | undefined;
  /** Memory that Baton may use, of the machine or of each GPU, GiB; what is free when absent. */
  readonly memoryGiB?: number | undefined;
  readonly plan: {
    /** File with a layout for every call. */
    readonly file?: string | undefined;
    /** One layout for all calls on all devices: "dp2tp2pp2". */
    readonly strategy?: string | undefined;
    /** Most tokens of one micro-batch; the planner's choice when absent. */
    readonly microBatchTokens?: number | undefined;
    /** What the backward pass computes again; the planner's choice when absent. */
    readonly recompute?: Recompute | undefined;
    /** File of a cluster: profile, links and memory to plan with. */
    readonly cluster?: string | undefined;
    /** Profile to plan with; this machine's own when absent. */
    readonly profile?: string | undefined;
    /** Seconds that score calls take for a step: "rewards=0.05". */
    readonly host?: string | undefined;
    /** Plans again when lengths or times differ from what was planned with. */
    readonly replan: boolean;
  };
  readonly score: {
    /** Seconds that a score function may take for one sample. */
    readonly deadlineSeconds: number;
  };
}

const positive = z.int().positive();

/** Text that a parser understands; a string from the parser is what is wrong with it. */
const written = (parse: (text: string) => object | string) =>
  z.string().superRefine((text, context) => {
    const parsed = parse(text);
    if (typeof parsed === "string") context.addIssue({ code: "custom", message: parsed });
  });

const schema = z.strictObject({
  run: z.strictObject({
    steps: positive.optional(),
    saveEvery: z.int().nonnegative().default(50),
    keep: positive.default(2),
    out: z.string().min(1).optional(),
    seed: z.int().nonnegative().default(1),
    logSamples: z.int().nonnegative().default(4),
    precision: z.enum(PRECISIONS).optional(),
    gradients: z.enum(PRECISIONS).optional(),
  }).prefault({}),
  devices: written(parseDevices).optional(),
  threads: positive.max(1024).optional(),
  memoryGiB: z.number().positive().optional(),
  plan: z.strictObject({
    file: z.string().min(1).optional(),
    strategy: written(parseStrategy).optional(),
    microBatchTokens: positive.optional(),
    recompute: z.enum(RECOMPUTE).optional(),
    cluster: z.string().min(1).optional(),
    profile: z.string().min(1).optional(),
    host: z.string().min(1).optional(),
    replan: z.boolean().default(false),
  }).prefault({}),
  score: z.strictObject({ deadlineSeconds: z.number().positive().default(60) }).prefault({}),
});

/**
 * Checks a configuration. Throws one error that lists every violation with its path; unknown keys are violations.
 *
 * @param origin file, for messages
 */
export function parseConfig(value: unknown, origin: string): Config {
  // An empty YAML file is null: nothing is said, and all defaults hold.
  const result = schema.safeParse(value ?? {});
  if (result.success) return result.data;
  const problems = result.error.issues.flatMap(describe);
  throw new TypeError(`Cannot use ${origin}: ${problems.join("; ")}, see docs/configuration.md for all keys`);
}

function describe(issue: z.core.$ZodIssue): string[] {
  const path = issue.path.map(String);
  if (issue.code !== "unrecognized_keys") {
    return [`${path.join(".") || "the file"}: ${issue.message.replace(/^Invalid input: /, "")}`];
  }
  const names = Object.keys(path.length === 0 ? KNOWN : KNOWN[path[0]!] ?? {}).join(", ");
  return issue.keys.map((key) =>
    `${[...path, key].join(".")}: unknown key, ${path.join(".") || "the file"} has ${names}`
  );
}

/** Sections of the file and their keys. */
const KNOWN: Readonly<Record<string, object>> = Object.fromEntries(
  Object.entries(schema.shape).map(([name, part]) => {
    const inner = part instanceof z.ZodPrefault ? part.unwrap() : part;
    return [name, inner instanceof z.ZodObject ? inner.shape : {}];
  }),
);

/** Reads a YAML file; without a path, the defaults. */
export async function loadConfig(path?: string): Promise<Config> {
  if (path === undefined) return parseConfig({}, "the default configuration");
  const text = await readTextOrNull(path);
  if (text === null) {
    throw new Error(`Cannot read the configuration: there is no file ${path}, give the path of a YAML file`);
  }
  let value: unknown;
  try {
    value = parse(text);
  } catch (error) {
    throw new SyntaxError(`Cannot use ${path}: ${(error as Error).message}`);
  }
  return parseConfig(value, path);
}
