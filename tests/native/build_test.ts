/** What builds share: a folder into which several may write at once. */
import assert from "node:assert/strict";
import { basename, dirname, join } from "node:path";
import { assemble } from "../../ffi/objects.ts";

Deno.test("builds of one library at once do not get into each other's way, in one process either", async () => {
  const folder = await Deno.makeTempDir(),
    source = join(folder, "source"),
    compiler = join(folder, "compiler");
  await Deno.writeTextFile(source, "made");
  // So slow that all of them are at it at the same time.
  await Deno.writeTextFile(compiler, `#!/bin/sh\nsleep 0.3\ncp "$1" "$3"\n`, { mode: 0o755 });
  const id = crypto.randomUUID(), object = `${id}.o`;
  const recipe = {
    what: "library of a test",
    units: [{ compiler, args: [source], object }],
    linker: compiler,
    link: [],
    library: `${id}.so`,
    missing: () => "",
  };
  const made = new Set(await Promise.all([1, 2, 3].map(() => assemble(recipe, () => {})))), [library] = made;
  assert.deepEqual([made.size, await Deno.readTextFile(library!)], [1, "made"]);
  const left = [dirname(library!), join(dirname(library!), "objects")].flatMap((place) =>
    [...Deno.readDirSync(place)].filter(({ name }) => name.startsWith(id)).map(({ name }) =>
      join(place, name)
    )
  );
  assert.deepEqual(left.map((path) => basename(path)).sort(), [object, `${id}.so`]);
  for (const path of left) await Deno.remove(path);
  await Deno.remove(folder, { recursive: true });
});
