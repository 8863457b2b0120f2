/**
 * `deno task bundle`: one archive that builds, tests and measures where there is no network: the committed sources, npm packages and
 * Deno's binary. There: `tar xf baton-bundle.tar.xz && cd baton && ./baton-env deno task gpu`.
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
const output = join(root, "build", "baton-bundle.tar.xz");

async function run(
  program: string,
  args: readonly string[],
  env: Record<string, string> = {},
  cwd = root,
): Promise<void> {
  const { success, stderr } = await new Deno.Command(program, { args: [...args], env, cwd, stdout: "null" })
    .output();
  if (!success) {
    throw new Error(
      `Cannot make the bundle: ${program} ${args[0]} failed\n${new TextDecoder().decode(stderr).trim()}`,
    );
  }
}

const work = await Deno.makeTempDir({ prefix: "baton-bundle-" });
try {
  const tree = join(work, "baton"), packages = join(tree, ".deno");
  await Deno.mkdir(packages, { recursive: true });
  await run("git", ["archive", "--format=tar", `--output=${join(work, "tree.tar")}`, "HEAD"]);
  await run("tar", ["xf", join(work, "tree.tar"), "-C", tree]);
  const { stdout } = await new Deno.Command("git", { args: ["rev-parse", "--short", "HEAD"], cwd: root })
    .output();
  await Deno.writeFile(join(tree, "COMMIT"), stdout);
  // Everything that a task runs, and so every package that it needs.
  const entries = [
    "mod.ts",
    "cli/main.ts",
    "ffi/build_cuda.ts",
    "tools/gpu.ts",
    "tools/test_gpu.ts",
    "bench/gpu.ts",
    "bench/gpu_joined.ts",
    "bench/gpu_memory.ts",
    "bench/gpu_operations.ts",
    "bench/gpu_probe.ts",
    "bench/gpu_probe_parts.ts",
    "bench/gpu_steps.ts",
    "examples/ppo.ts",
    "tests/run/scripts/ppo.ts",
    ...["native", "golden"].flatMap((group) =>
      [...Deno.readDirSync(join(tree, "tests", group))].filter(({ name }) => name.endsWith("_test.ts"))
        .map(({ name }) => `tests/${group}/${name}`)
    ),
  ];
  await run(Deno.execPath(), ["cache", ...entries], { DENO_DIR: packages }, tree);
  for (const folder of ["gen", "v8_code_cache_v2"]) {
    await Deno.remove(join(packages, folder), { recursive: true }).catch(() => {});
  }
  await Deno.copyFile(Deno.execPath(), join(tree, ".deno", "deno"));
  await Deno.writeTextFile(
    join(tree, "baton-env"),
    '#!/bin/sh\nhere=$(cd "$(dirname "$0")" && pwd)\nexport DENO_DIR="$here/.deno" PATH="$here/.deno:$PATH"\nexec "$@"\n',
  );
  await Deno.chmod(join(tree, "baton-env"), 0o755);
  await Deno.mkdir(join(root, "build"), { recursive: true });
  await run("tar", ["cJf", output, "-C", work, "baton"], { XZ_OPT: "-3 -T0" });
  const { size } = await Deno.stat(output);
  console.log(`${output} ${(size / 2 ** 20).toFixed(1)} MiB`);
} finally {
  await Deno.remove(work, { recursive: true });
}
