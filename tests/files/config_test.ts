import assert from "node:assert/strict";
import { adamw, conversations, models, policyModel, sft, workflow } from "../../dsl/mod.ts";
import { loadConfig, parseConfig } from "../../engine/config.ts";
import { parse } from "../../engine/yaml.ts";
import { readCluster } from "../../run/cluster.ts";
import { capacityOf } from "../../run/profiles.ts";
import type { RunOptions } from "../../run/options.ts";
import { resolveOptions } from "../../run/resolve.ts";
import { withFolder } from "./shared.ts";

const ROOT = new URL("../../", import.meta.url).pathname;

/** Paths of the leaves of a value: "run.steps". */
const paths = (value: object, before = ""): string[] =>
  Object.entries(value).flatMap(([key, inner]) =>
    typeof inner === "object" ? paths(inner, `${before}${key}.`) : [`${before}${key}`]
  );

Deno.test("examples/run.yaml is valid, and has every key that docs/configuration.md explains", async () => {
  const path = `${ROOT}examples/run.yaml`, text = await Deno.readTextFile(path);
  await loadConfig(path);
  const page = await Deno.readTextFile(`${ROOT}docs/configuration.md`);
  const explained = [...page.matchAll(/^\| `([\w.]+)`/gm)].map((match) => match[1]!);
  // A strategy or a plan, not both, and what only some scripts or machines have: the example shows them in comments.
  assert.deepEqual(paths(parse(text.replace(/# (file|cluster|host): /g, "$1: ")) as object), explained);
  // What a configuration may hold, section by section, as the message about an unknown key says it.
  const odd = { x: 1, run: { x: 1 }, plan: { x: 1 }, score: { x: 1 } }, known: string[] = [];
  assert.throws(() => parseConfig(odd, "it"), ({ message }: Error) => {
    const sections = message.matchAll(/unknown key, (the file|\w+) has ([\w, ]+?)(?=;|, see docs)/g);
    for (const [, section, keys] of sections) {
      known.push(...keys!.split(", ").map((key) => section === "the file" ? key : `${section}.${key}`));
    }
    return true;
  });
  assert.deepEqual(known.filter((key) => !["run", "plan", "score"].includes(key)).sort(), explained.sort());
});

const { m } = models({ m: policyModel("m", adamw({ lr: 1 })) });
const w = workflow({ name: "w", data: conversations("d.jsonl", { batch: 1 }), flow: m.train(sft()) });

Deno.test("resolveOptions() lists every option that is out of range", async () => {
  const wrong = { steps: 1, seed: 1.5, saveEvery: -1, threads: 0, microBatchTokens: NaN, recompute: "all" };
  await assert.rejects(resolveOptions(w, wrong as unknown as RunOptions), (error: Error) => {
    assert.ok(error instanceof RangeError);
    assert.match(
      error.message,
      /^Cannot run w: seed is 1\.5, .*; saveEvery is -1, .*; threads is 0, .*; microBatchTokens/,
    );
    assert.match(error.message, /; recompute is all, it must be nothing or logits or cheap or layers$/);
    return true;
  });
  assert.equal((await resolveOptions(w, { steps: 1, saveEvery: 0 })).saveEvery, 0);
});

Deno.test("resolveOptions() shares threads among devices, and takes a strategy or a plan of the options before the file's", async () => {
  await withFolder(async (folder) => {
    const config = `${folder}/run.yaml`, plan = `${folder}/plan.yaml`;
    await Deno.writeTextFile(config, "devices: cpu:2x2\nthreads: 6\nplan: { strategy: pp2tp2 }\n");
    await Deno.writeTextFile(plan, "calls: { m.train: { devices: 0-1, dp: 2 } }\n");
    const { machine } = await resolveOptions(w, { steps: 1, config });
    assert.deepEqual(
      [machine.devices, machine.threads, machine.strategy, machine.planFile],
      [{ nodes: 2, perNode: 2 }, 1, { dp: 1, tp: 2, pp: 2 }, undefined],
    );
    const { machine: other } = await resolveOptions(w, { steps: 1, config, plan, threads: 8 });
    assert.deepEqual([other.threads, other.strategy], [2, undefined]);
    assert.deepEqual(other.planFile?.calls["m.train"], {
      devices: { from: 0, to: 1 },
      strategy: { dp: 2, tp: 1, pp: 1 },
    });
    const { machine: one } = await resolveOptions(w, { steps: 1, threads: 3 });
    assert.deepEqual([one.devices, one.threads], [{ nodes: 1, perNode: 1 }, 3]);
  });
});

Deno.test("resolveOptions() refuses devices, strategies and plans that do not go together, all at once", async () => {
  const says = (o: RunOptions, message: RegExp) =>
    assert.rejects(resolveOptions(w, { steps: 1, ...o }), message);
  await says(
    { devices: "gpu", strategy: "dp2dp2", plan: "p.yaml" },
    /devices is "gpu", it must be cpu:8 .*; strategy is "dp2dp2", it must name .*; strategy is "dp2dp2" and plan is "p\.yaml"/,
  );
  await says(
    { devices: "cpu:8", strategy: "dp2tp2" },
    /strategy is "dp2tp2", which needs 4 devices, and 8 are given, make them the same number$/,
  );
  await says(
    { plan: "/nowhere/p.yaml" },
    /^Error: Cannot read the plan: there is no file \/nowhere\/p\.yaml/,
  );
  await withFolder(async (folder) => {
    await Deno.writeTextFile(`${folder}/p.yaml`, "calls: [");
    await says({ plan: `${folder}/p.yaml` }, /Cannot use .*p\.yaml: Cannot parse YAML: line 1/);
  });
});

Deno.test("resolveOptions() plans with the profile that is named, else the cluster's, with this machine's processors and the seconds that are said", async () => {
  await withFolder(async (folder) => {
    const cluster = `${folder}/cluster.yaml`, config = `${folder}/run.yaml`, cpu = `${ROOT}profiles/cpu.json`;
    await Deno.writeTextFile(
      cluster,
      "profile: h100\nnodes: 2\ndevicesPerNode: 1\nmemoryGiB: 0.25\nhost: { judge: 3, other: 1 }\n",
    );
    const { machine, replan } = await resolveOptions(w, {
      steps: 1,
      cluster,
      host: "judge=2,rewards=0.5",
      replan: true,
    });
    assert.deepEqual([machine.devices, machine.memoryBytes, replan], [
      { nodes: 2, perNode: 1 },
      2 ** 29,
      true,
    ]);
    const { profile, links, hostSeconds } = machine.assumptions!, h100 = (await readCluster(cluster)).profile;
    assert.deepEqual([profile.name, links.length, hostSeconds], [h100.name, h100.links.length, {
      judge: 2,
      other: 1,
      rewards: 0.5,
    }]);
    assert.equal(profile.capacity, capacityOf(machine.threads));
    await Deno.writeTextFile(
      config,
      `devices: cpu:2\nplan: { profile: ${cpu}, host: rewards=1, replan: true }\n`,
    );
    const { machine: own, replan: again } = await resolveOptions(w, { steps: 1, config });
    assert.match(own.assumptions!.profile.name, /CPU/);
    assert.deepEqual([own.assumptions!.hostSeconds, again], [{ rewards: 1 }, true]);
    // Nothing is planned for one device.
    assert.equal((await resolveOptions(w, { steps: 1 })).machine.assumptions, undefined);
    const says = (o: RunOptions, message: RegExp) =>
      assert.rejects(resolveOptions(w, { steps: 1, ...o }), message);
    await says(
      { cluster, devices: "cpu:2", host: "x" },
      /host is "x", it must be .*; devices are 1 × 2 and the cluster has 2 × 1, leave devices out/,
    );
    await says({ devices: "cpu:2", profile: "none.json" }, /Cannot read profile none\.json/);
    await says({ cluster: `${folder}/none.yaml` }, /there is no file .*none\.yaml/);
  });
});

Deno.test("loadConfig() reads a file and names it in errors", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/run.yaml`;
    await Deno.writeTextFile(path, "run: { steps: 3, out: runs/x }\nthreads: 2\n");
    const config = await loadConfig(path);
    assert.deepEqual([config.run.steps, config.run.out, config.threads, config.run.saveEvery], [
      3,
      "runs/x",
      2,
      50,
    ]);
    await Deno.writeTextFile(path, "run: { saveEvery: 0 }");
    assert.equal((await loadConfig(path)).run.saveEvery, 0);
    await Deno.writeTextFile(path, "run: [");
    await assert.rejects(loadConfig(path), /Cannot use .*run\.yaml: Cannot parse YAML: line 1/);
    await assert.rejects(loadConfig(`${folder}/none.yaml`), /there is no file .*none\.yaml/);
    assert.equal((await loadConfig()).run.seed, 1);
  });
});
