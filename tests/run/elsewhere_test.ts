import assert from "node:assert/strict";
import { listing, metricsOf, ROOT, script, succeeds, withWorld } from "./fixtures.ts";

const TRAIN = (library: string) => `
import { adamw, conversations, flags, models, policyModel, run, sft, workflow, z } from "${library}";
const o = flags({ lr: z.number().positive().default(1e-3) });
const { actor } = models({ actor: policyModel("policy", adamw({ lr: o.lr })) });
export default workflow({ name: "mine", data: conversations("texts.jsonl", { batch: 4 }), flow: actor.train(sft()) });
if (import.meta.main) await run((await import(import.meta.url)).default, { steps: 2 });
`;

Deno.test("an empty folder with an import map of two lines runs a script", async () => {
  await withWorld(async (world) => {
    await Deno.writeTextFile(
      `${world}/deno.json`,
      `{ "imports": {\n  "@baton/baton": "file://${ROOT}mod.ts" } }\n`,
    );
    await Deno.writeTextFile(`${world}/train.ts`, TRAIN("@baton/baton"));
    await succeeds(`${world}/train.ts`, [], { cwd: world });
    assert.ok("/runs/mine/model.safetensors" in listing(world));
  });
});

Deno.test("a script has the flags of the scripts that it imports, and refuses others", async () => {
  await withWorld(async (world) => {
    await Deno.writeTextFile(`${world}/mine.ts`, TRAIN(`file://${ROOT}mod.ts`));
    const own = `import mine from "./mine.ts"; import { flags, run, z } from "file://${ROOT}mod.ts";
      const o = flags({ tries: z.int().default(1) });
      console.log(o.tries); await run(mine, { steps: 1 });`;
    await Deno.writeTextFile(`${world}/train.ts`, own);
    const args = ["--tries", "3", "--lr", "0.5", "--out", "here"];
    const { out } = await succeeds(`${world}/train.ts`, args, { cwd: world });
    assert.equal(out, "3\n");
    assert.equal(metricsOf(`${world}/here`)[0]?.["actor/learningRate"], 0.5);
    const help = await succeeds(`${world}/train.ts`, ["--help"], { cwd: world });
    for (const flag of ["--tries", "--lr", "--out"]) assert.ok(help.out.includes(`  ${flag} `), help.out);
    const refused = await script(`${world}/train.ts`, ["--lrr", "3"], { cwd: world });
    assert.match(refused.err, /^error: Cannot read the flags: there is no flag --lrr.*\n$/);
    assert.equal(refused.code, 1);
  });
});

Deno.test("a script runs from a working directory that is not its own", async () => {
  await withWorld(async (world) => {
    await Deno.mkdir(`${world}/scripts`);
    await Deno.writeTextFile(`${world}/scripts/train.ts`, TRAIN(`file://${ROOT}mod.ts`));
    await succeeds(`${world}/scripts/train.ts`, ["--out", "here"], { cwd: world });
    assert.ok("/here/model.safetensors" in listing(world));
  });
});

Deno.test("the installed command works from any folder", async () => {
  await withWorld(async (world) => {
    const home = `${world}/home`;
    const install = await new Deno.Command(Deno.execPath(), {
      args: [
        "install",
        "--global",
        "--allow-all",
        "--quiet",
        "--root",
        home,
        "--name",
        "baton",
        `${ROOT}cli/main.ts`,
      ],
      cwd: world,
    }).output();
    assert.ok(install.success, new TextDecoder().decode(install.stderr));
    const { stdout, stderr, code } = await new Deno.Command(`${home}/bin/baton`, {
      args: ["generate", "policy", "--tokens", "1,5,9", "--max-new-tokens", "4", "--ignore-eos"],
      cwd: world,
    }).output();
    assert.equal(code, 0, new TextDecoder().decode(stderr));
    assert.equal(JSON.parse(new TextDecoder().decode(stdout)).tokens.length, 4);
  });
});

/** Copies what a checkout has, but not what was made in it. */
async function checkout(to: string): Promise<void> {
  const visit = async (folder: string): Promise<void> => {
    await Deno.mkdir(`${to}/${folder}`, { recursive: true });
    for await (const { name, isDirectory } of Deno.readDir(`${ROOT}${folder}`)) {
      const path = `${folder}${name}`;
      if (/^\.|^(build|node_modules|runs|tests|examples)$/.test(path)) continue;
      if (isDirectory) await visit(`${path}/`);
      else await Deno.copyFile(`${ROOT}${path}`, `${to}/${path}`);
    }
  };
  await visit("");
}

Deno.test("a checkout that cannot be written builds the library into the user's cache", async () => {
  await withWorld(async (world) => {
    await checkout(`${world}/checkout`);
    // Permissions do not bind every user; a file where the folder should be does.
    await Deno.writeTextFile(`${world}/checkout/build`, "");
    // With the objects of the repository's own build only the last step of this one is left.
    const objects = `${world}/cache/baton/objects`;
    await Deno.mkdir(objects, { recursive: true });
    for await (const { name } of Deno.readDir(`${ROOT}build/objects`)) {
      await Deno.copyFile(`${ROOT}build/objects/${name}`, `${objects}/${name}`);
    }
    const before = listing(`${world}/checkout`);
    const args = ["generate", "policy", "--tokens", "1,5,9", "--max-new-tokens", "4"];
    const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["info", "--json"] }).output();
    const env = {
      XDG_CACHE_HOME: `${world}/cache`,
      DENO_DIR: JSON.parse(new TextDecoder().decode(stdout)).denoDir,
    };
    const run = () => succeeds(`${world}/checkout/cli/main.ts`, args, { cwd: world, env });
    const first = await run();
    assert.match(first.err, /^Building the native library/);
    assert.ok(
      Object.keys(listing(`${world}/cache/baton`)).some((path) => /^\/libbaton_cpu-\w+\.so$/.test(path)),
    );
    const second = await run();
    assert.ok(!second.err.includes("Building"), second.err);
    assert.equal(second.out, first.out);
    assert.deepEqual(listing(`${world}/checkout`), before);
  });
});
