/** The planner in a real browser. */
import assert from "node:assert/strict";
import { inputOf, ppoGraph } from "../pure/planner_fixtures.ts";
import { answer } from "./scripts/plan_answer.ts";

const CHROMIUM = "/usr/bin/chromium", here = (path: string) => new URL(path, import.meta.url).pathname;
const missing = await Deno.stat(CHROMIUM).then(() => false, () => true);

Deno.test({
  name: `the planner makes the same plan in a browser${missing ? ` (skipped: no ${CHROMIUM})` : ""}`,
  ignore: missing,
  fn: async () => {
    const folder = await Deno.makeTempDir(),
      question = inputOf(ppoGraph({ batch: 64 }), { devicesPerNode: 4, layers: 8 });
    try {
      const bundle = await new Deno.Command(Deno.execPath(), {
        args: [
          "bundle",
          "--quiet",
          "--platform",
          "browser",
          "-o",
          `${folder}/planner.js`,
          here("scripts/plan_in_page.ts"),
        ],
      }).output();
      assert.ok(bundle.success, new TextDecoder().decode(bundle.stderr));
      const script = await Deno.readTextFile(`${folder}/planner.js`);
      await Deno.writeTextFile(
        `${folder}/page.html`,
        `<!doctype html><meta charset="utf-8"><body></body><script>var question = ${
          JSON.stringify(question)
        };</script>` +
          `<script type="module">${script.replaceAll("</script", "<\\/script")}</script>`,
      );
      const { stdout } = await new Deno.Command(CHROMIUM, {
        args: [
          "--headless",
          "--no-sandbox",
          "--disable-gpu",
          `--user-data-dir=${folder}/profile`,
          "--virtual-time-budget=60000",
          "--dump-dom",
          `file://${folder}/page.html`,
        ],
        stderr: "null",
      }).output();
      const text = /<body>(.*?)<\/body>/s.exec(new TextDecoder().decode(stdout))![1]!;
      assert.deepEqual(
        JSON.parse(text.replaceAll("&gt;", ">").replaceAll("&amp;", "&")),
        JSON.parse(answer(question)),
      );
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
