/** The examples, run as a user runs them. */
import assert from "node:assert/strict";
import { parseConfig } from "../../compiler/models/config.ts";
import { makeData } from "../../examples/couplets/make_data.ts";
import { parameters } from "../../compiler/models/transformer.ts";
import { Safetensors } from "../../engine/safetensors.ts";
import { largestError } from "../golden/model_runner.ts";
import { jsonLines, listing, metricsOf, ROOT, script, succeeds } from "./fixtures.ts";

const CASES = `${ROOT}tests/golden/cases/`;

/** Runs an example in a folder of its own, with `--out` in it. */
async function example(
  name: string,
  args: (folder: string) => readonly string[] | Promise<readonly string[]>,
  check: (out: string, stdout: string) => void | Promise<void>,
): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "baton-example-" });
  try {
    const { out } = await succeeds(`${ROOT}examples/${name}`, [
      ...await args(folder),
      "--out",
      `${folder}/out`,
    ], { cwd: folder });
    await check(`${folder}/out`, out);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const golden = [...Deno.readDirSync(CASES)].map((entry) => entry.name)
  .filter((name) => exists(`${CASES}${name}/model.safetensors`)).sort();
function exists(path: string): boolean {
  try {
    return Deno.statSync(path) !== null;
  } catch {
    return false;
  }
}
assert.ok(golden.length >= 5, `${golden}`);

for (const name of golden) {
  Deno.test(`examples/sft.ts makes the three steps of ${name} like PyTorch`, async () => {
    using expected = await Safetensors.open(`${CASES}${name}/golden.safetensors`);
    const ids = await expected.readIntegers("input_ids"),
      lengths = [...await expected.readIntegers("lengths")];
    const width = ids.length / lengths.length;
    const flags = "--steps 3 --lr 1e-3 --weight-decay 0.1 --betas 0.9,0.95 --clip 0 --no-shuffle";
    const args = async (folder: string) => {
      const lines = lengths.map((n, r) => ({ tokens: [...ids.subarray(r * width, r * width + n)] }));
      const data = await jsonLines(`${folder}/data.jsonl`, lines);
      return [
        "--model",
        `${CASES}${name}`,
        "--data",
        data,
        "--batch",
        `${lines.length}`,
        ...flags.split(" "),
      ];
    };
    await example("sft.ts", args, async (out) => {
      using saved = await Safetensors.open(`${out}/model.safetensors`);
      const config = parseConfig(JSON.parse(await Deno.readTextFile(`${out}/config.json`)), "config.json");
      for (const p of parameters(config, "lm")) {
        const [value, want] = [await saved.read(p.name, p.shape), await expected.read(`step3.${p.name}`)];
        // Gradients of key biases are mathematically zero; Adam turns their rounding into steps.
        const error = largestError(value, want), limit = p.name.endsWith("k_proj.bias") ? 1e-4 : 2e-5;
        assert.ok(error < limit, `${p.name} after three steps: ${error}`);
      }
    });
  });
}

const both = ["--steps", "2", "--batch", "8"];

Deno.test("examples/ppo.ts runs, and leaves logs, report and models", async () => {
  await example("ppo.ts", () => both, (out) => {
    assert.equal(metricsOf(out).filter((line) => "actor/loss" in line).length, 2);
    const files = Object.keys(listing(out));
    for (const file of ["samples.jsonl", "report.html", "actor/model.safetensors", "critic/config.json"]) {
      assert.ok(files.includes(`/${file}`), `${file} among ${files}`);
    }
  });
});

Deno.test("examples/quickstart.ts puts everything where --out says, and says where", async () => {
  await example("quickstart.ts", () => both, (out, said) => {
    assert.match(said, /^Rhyming, well-formed couplets: \d+ % before, \d+ % after\.$/m);
    assert.ok(said.includes(`Open ${out}/report.html `), said);
    assert.ok("/report.html" in listing(out));
  });
});

Deno.test("examples/reward.ts makes a reward model", async () => {
  const from = ["--model", `${ROOT}examples/models/couplets`];
  const args = async (folder: string) => {
    const { pairs } = makeData();
    return [...from, "--data", await jsonLines(`${folder}/pairs.jsonl`, pairs.slice(0, 64)), ...both];
  };
  await example("reward.ts", args, async (out) => {
    const { architectures } = JSON.parse(await Deno.readTextFile(`${out}/config.json`));
    assert.match(architectures[0], /ForSequenceClassification$/);
    assert.equal(metricsOf(out).length, 2);
  });
});

const SHARED = `${ROOT}../shared/assets/`;
const shared = exists(`${SHARED}models/stories260K`);
if (!shared) console.log(`examples/ppo_sentiment.ts is not run: ${SHARED} is not there`);

Deno.test({
  name: "examples/ppo_sentiment.ts trains a pretrained model, from any working directory",
  ignore: !shared,
  fn: () =>
    example("ppo_sentiment.ts", () => both, (out) => {
      const [first] = metricsOf(out);
      assert.equal(first?.["parity/max_abs"], 0);
      assert.ok("/actor/model.safetensors" in listing(out));
    }),
});

Deno.test("examples/ppo_sentiment.ts says in one line what it lacks", async () => {
  const folder = await Deno.makeTempDir({ prefix: "baton-example-" });
  try {
    const path = `${ROOT}examples/ppo_sentiment.ts`, out = ["--steps", "2", "--out", `${folder}/out`];
    const lacks = async (flag: string, says: RegExp) => {
      const { code, err } = await script(path, [flag, `${folder}/none`, ...out], { cwd: folder });
      assert.match(err, says);
      assert.equal(code, 1);
      assert.deepEqual(listing(folder), {});
    };
    await lacks(
      "--assets",
      /^error: Cannot read the lexicon: there is no file \S+, give --assets a folder [^\n]+\n$/,
    );
    if (shared) {
      await lacks("--model", /^error: Cannot load actor: \S+ does not exist, give a folder [^\n]+\n$/);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
