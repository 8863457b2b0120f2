/**
 * The example notebooks in a real kernel, where Jupyter is installed: every cell runs, and what a cell is to show is there. The kernel's
 * description is made here, so that none has to be installed.
 */
import assert from "node:assert/strict";
import { withFolder } from "../files/shared.ts";
import { ROOT } from "./fixtures.ts";

interface Output {
  readonly output_type: string;
  readonly data?: Readonly<Record<string, string | readonly string[]>>;
  readonly text?: string | readonly string[];
}
interface Cell {
  readonly cell_type: string;
  readonly outputs?: readonly Output[];
}

async function jupyter(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
  const command = new Deno.Command(Deno.env.get("BATON_JUPYTER") ?? "jupyter", {
    args: [...args],
    cwd: `${ROOT}examples/notebooks`,
    env: { ...env, NO_COLOR: "1" },
    stdout: "piped",
    stderr: "piped",
  });
  const { success, stderr } = await command.output();
  return { success, said: new TextDecoder().decode(stderr) };
}
const installed = await jupyter(["nbconvert", "--version"]).then((r) => r.success, () => false);
if (!installed) console.log("skipped: the notebooks need `jupyter nbconvert` on the PATH, or BATON_JUPYTER");

/** Runs a notebook and gives the outputs of its cells of code. */
async function executed(name: string): Promise<readonly (readonly Output[])[]> {
  let cells: readonly Cell[] = [];
  await withFolder(async (folder) => {
    const kernel = `${folder}/kernels/baton-test`;
    await Deno.mkdir(kernel, { recursive: true });
    const argv = [Deno.execPath(), "jupyter", "--kernel", "--conn", "{connection_file}"];
    await Deno.writeTextFile(
      `${kernel}/kernel.json`,
      JSON.stringify({ argv, display_name: "Deno", language: "typescript" }),
    );
    const { success, said } = await jupyter([
      ...["nbconvert", "--to", "notebook", "--execute", "--ExecutePreprocessor.kernel_name=baton-test"],
      "--ExecutePreprocessor.iopub_timeout=60",
      ...[`${name}.ipynb`, "--output-dir", folder, "--output", `${name}.ipynb`],
    ], { JUPYTER_PATH: folder });
    assert.ok(success, said);
    cells = JSON.parse(await Deno.readTextFile(`${folder}/${name}.ipynb`)).cells;
  });
  return cells.filter((cell) => cell.cell_type === "code").map((cell) => cell.outputs ?? []);
}
const textOf = (value: string | readonly string[] | undefined): string => [value ?? ""].flat().join("");
const shown = (outputs: readonly Output[], type: string): string =>
  outputs.map((o) => textOf(o.data?.[type])).join("\n");
const count = (text: string, part: RegExp) => [...text.matchAll(part)].length;

function notebook(name: string, check: (cells: readonly (readonly Output[])[]) => void): void {
  Deno.test({
    name: `examples/notebooks/${name}.ipynb runs in a kernel and shows what it says`,
    ignore: !installed,
    fn: async () => check(await executed(name)),
  });
}

notebook("tour", ([, rollout, ppo, run, values]) => {
  assert.match(shown(rollout!, "image/svg+xml"), /^<svg [\s\S]*>reward\.infer<[\s\S]*<\/svg>/);
  assert.match(shown(ppo!, "image/svg+xml"), />actor\.train</);
  const live = run!.filter((o) => o.output_type === "display_data");
  assert.equal(live.length, 1, "one display that was updated");
  assert.match(shown(live, "text/html"), /step 12\/12/);
  assert.equal(count(shown(live, "text/html"), /<path d="M[\d.]+ [\d.]+L/g), 6, "six curves");
  assert.match(shown(run!, "text/html"), /tokens coloured by <b>advantages<\/b>/);
  assert.equal(
    count(shown(values!, "text/html"), /<tr>/g),
    13,
    `12 samples below their heads: ${JSON.stringify(values)}`,
  );
  assert.ok(count(shown(values!, "text/html"), /<span title="values /g) > 50);
  assert.ok(run!.every((o) => !("name" in o) || o.name !== "stderr"), "nothing looks like an error");
});

notebook("custom_algorithm", (cells) => {
  assert.match(shown(cells[2]!, "image/svg+xml"), />score\.rewards</);
  assert.match(shown(cells[4]!, "text/plain"), /^"0\.\d+ → 0\.\d+"$/);
  assert.match(textOf(cells[5]![0]!.text), /^Cannot build workflow "wrong": .*groupAdvantages/);
});

notebook("planning", ([, alike, hand, adapted, yaml]) => {
  for (const outputs of [alike!, hand!]) {
    const html = shown(outputs, "text/html");
    assert.match(html, /<caption>Plan<\/caption>[\s\S]*<caption>Memory<\/caption>/);
    assert.equal(count(html, /text-anchor="end">device \d</g), 8);
    assert.match(html, /<title>actor\.train, [\d.,e+]+ operations<\/title>/);
  }
  assert.match(shown(hand!, "text/html"), /<title>actor@0 → actor@1, reallocation<\/title>/);
  assert.match(shown(adapted!, "text/plain"), /ref params, those of actor: 0"/);
  assert.match(textOf(yaml![0]!.text), /actor\.train: \{ devices: 0 \}/);
});
