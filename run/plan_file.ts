/** Reads the file of `--plan`. */
import { readTextOrNull } from "../engine/files.ts";
import { keyLines, parse } from "../engine/yaml.ts";
import { parsePlanFile, type PlanFile } from "../planner/plan_file.ts";

/** @throws one line when there is no such file, or its text or form is wrong */
export async function readPlanFile(path: string): Promise<PlanFile> {
  const text = await readTextOrNull(path);
  if (text === null) {
    throw new Error(`Cannot read the plan: there is no file ${path}, give the path of a YAML or JSON file`);
  }
  let value: unknown;
  try {
    value = parse(text);
  } catch (error) {
    throw new SyntaxError(`Cannot use ${path}: ${(error as Error).message}`);
  }
  // A readable plan has its calls under one key, a whole one under the other.
  return parsePlanFile(value, path, keyLines(text, ["calls", "assignments"]));
}
