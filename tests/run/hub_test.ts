import assert from "node:assert/strict";
import { cachedModel, modelFolder, repositoryOf } from "../../engine/hub.ts";
import type { HubProgress } from "../../engine/hub_progress.ts";
import type { HubSettings } from "../../engine/hub_settings.ts";
import { withFolder } from "../files/shared.ts";
import { metricsOf, script, succeeds, withWorld } from "./fixtures.ts";
import { HubServer } from "./hub_server.ts";

const NAME = "test-org/tiny_model-0.1B",
  FOLDER = "models--test-org--tiny_model-0.1B",
  COMMIT = "a".repeat(40);
const bytes = (text: string) => new TextEncoder().encode(text);
const WEIGHTS = Uint8Array.from({ length: 50_000 }, (_, i) => i * 7 + (i >> 8));
const FILES = {
  "config.json": bytes("{}"),
  "tokenizer.json": bytes("x".repeat(3000)),
  "model.safetensors": WEIGHTS,
  "consolidated.safetensors": WEIGHTS,
  "README.md": bytes("read me"),
};

class Seen implements HubProgress {
  total = 0;
  done = 0;
  stops = 0;
  start(_: string, total: number, done: number) {
    [this.total, this.done] = [total, done];
  }
  update(done: number) {
    this.done = done;
  }
  stop() {
    this.stops++;
  }
}

async function withHub(
  fn: (hub: HubServer, settings: HubSettings & { readonly progress: Seen }) => Promise<void>,
  files: HubServer["files"] = FILES,
) {
  await withFolder(async (cache) => {
    await using hub = new HubServer(NAME, files);
    await fn(hub, { endpoint: hub.endpoint, offline: false, cache, progress: new Seen(), pause: 1 });
  });
}
const get = (settings: HubSettings, name = NAME) => modelFolder(name, () => settings);

Deno.test("repositoryOf() tells models of the hub from paths", () => {
  const main = { name: "Qwen/Qwen3-0.6B", revision: "main" };
  assert.deepEqual(repositoryOf("Qwen/Qwen3-0.6B"), main);
  assert.deepEqual(repositoryOf("Qwen/Qwen3-0.6B@refs/pr/1"), { ...main, revision: "refs/pr/1" });
  for (
    const path of [
      "model",
      "./a/b",
      "../a",
      "/a/b",
      "a/b/c",
      "a/..",
      "a/b@../x",
      "",
      "a//b",
      "a/b.git",
      "a--b/c",
    ]
  ) {
    assert.equal(repositoryOf(path), null, path);
  }
});

Deno.test("modelFolder() downloads what is needed once, in the layout that other libraries read", async () => {
  await withHub(async (hub, settings) => {
    const folder = await get(settings);
    assert.equal(folder, `${settings.cache}/${FOLDER}/snapshots/${COMMIT}`);
    const names = [...Deno.readDirSync(folder)].map((e) => e.name).sort();
    assert.deepEqual(names, ["config.json", "model.safetensors", "tokenizer.json"]);
    assert.deepEqual(await Deno.readFile(`${folder}/model.safetensors`), WEIGHTS);
    assert.match(await Deno.readLink(`${folder}/model.safetensors`), /^\.\.\/\.\.\/blobs\/[0-9a-f]{64}$/);
    assert.match(await Deno.readLink(`${folder}/config.json`), /^\.\.\/\.\.\/blobs\/[0-9a-f]{40}$/);
    assert.equal(await Deno.readTextFile(`${settings.cache}/${FOLDER}/refs/main`), COMMIT);
    const { total, done, stops } = settings.progress;
    assert.deepEqual([total, done, stops], [53_002, 53_002, 1]);
    const before = hub.requests.length;
    assert.equal(await get(settings), folder);
    assert.equal(await get({ ...settings, offline: true }, `${NAME}@${COMMIT}`), folder);
    assert.equal(hub.requests.length, before, "what is in the cache is not asked for");
  });
});

Deno.test("modelFolder() takes shards and their index where the weights are not in one file", async () => {
  const shard = (n: number) => `model-0000${n}-of-00002.safetensors`;
  const index = { weight_map: { a: shard(1), b: shard(2), c: shard(2) } };
  const files = {
    "config.json": bytes("{}"),
    "model.safetensors.index.json": bytes(JSON.stringify(index)),
    [shard(1)]: WEIGHTS.slice(0, 100),
    [shard(2)]: WEIGHTS,
  };
  await withHub(async (_, settings) => {
    const folder = await get(settings);
    assert.deepEqual(await Deno.readFile(`${folder}/${shard(2)}`), WEIGHTS);
    await Deno.remove(`${folder}/${shard(1)}`);
    const repository = repositoryOf(NAME)!;
    assert.equal(await cachedModel(repository, settings.cache), null, "a shard is missing");
    assert.equal(await get(settings), folder);
  }, files);
});

Deno.test("a local folder goes before the hub", async () => {
  await withHub(async (hub, settings) => {
    const here = Deno.cwd();
    try {
      Deno.chdir(settings.cache);
      await Deno.mkdir(NAME, { recursive: true });
      assert.equal(await get(settings), NAME);
    } finally {
      Deno.chdir(here);
    }
    assert.deepEqual(hub.requests, []);
  });
});

Deno.test("cut connections and busy servers are asked again", async () => {
  await withHub(async (hub, settings) => {
    Object.assign(hub.faults, { cut: 2, busy: 2 });
    const folder = await get(settings);
    assert.deepEqual(await Deno.readFile(`${folder}/model.safetensors`), WEIGHTS);
    assert.deepEqual([hub.faults.cut, hub.faults.busy], [0, 0]);
    assert.equal(settings.progress.done, 53_002);
  });
});

Deno.test("a download that was given up goes on where it stopped", async () => {
  const large = Uint8Array.from({ length: 40 << 20 }, (_, i) => i ^ (i >> 11));
  await withHub(async (hub, settings) => {
    hub.faults.busyFrom = 16 << 20;
    await assert.rejects(get(settings), (error: Error) => {
      assert.match(
        error.message,
        /^Cannot download test-org\/tiny_model-0\.1B: http:.* answers with status 503, try again: what is there is gone on from$/,
      );
      return true;
    });
    assert.equal(await cachedModel(repositoryOf(NAME)!, settings.cache), null);
    delete hub.faults.busyFrom;
    const asked = hub.contents.length, folder = await get(settings);
    assert.deepEqual(await Deno.readFile(`${folder}/model.safetensors`), large);
    const again = hub.contents.slice(asked).filter((r) => r.includes("model.safetensors"));
    assert.deepEqual(again.map((r) => r.split(" ").at(-1)).sort(), [
      "bytes=16777216-33554431",
      "bytes=33554432-41943039",
    ]);
    assert.deepEqual(
      [...Deno.readDirSync(`${settings.cache}/${FOLDER}/blobs`)].length,
      3,
      "nothing incomplete is left",
    );
  }, { ...FILES, "model.safetensors": large });
});

Deno.test("what does not have its checksum is fetched once more where it was gone on from, and never used", async () => {
  await withHub(async (hub, settings) => {
    hub.faults.corrupt = { "model.safetensors": 1 };
    await assert.rejects(
      get(settings),
      /Cannot download model\.safetensors of .*: its checksum is not [0-9a-f]{64}/,
    );
    assert.equal(await cachedModel(repositoryOf(NAME)!, settings.cache), null);
    assert.deepEqual(await Deno.readFile(`${await get(settings)}/model.safetensors`), WEIGHTS);
  });
  await withHub(async (_, settings) => {
    // The rest of another file: the length fits, the bytes do not.
    const whole = await get(settings), blob = await Deno.realPath(`${whole}/model.safetensors`);
    await Deno.remove(blob);
    await Deno.writeFile(`${blob}.incomplete`, new Uint8Array(20_000));
    assert.deepEqual(await Deno.readFile(`${await get(settings)}/model.safetensors`), WEIGHTS);
    assert.equal(settings.progress.done, settings.progress.total);
  });
});

Deno.test("a small file is compared with Git's checksum", async () => {
  await withHub(async (hub, settings) => {
    hub.faults.corrupt = { "config.json": 9 };
    await assert.rejects(
      get(settings),
      /Cannot download config\.json of .*: its checksum is not [0-9a-f]{40},/,
    );
  });
});

Deno.test("every refusal is one line that says what to do", async () => {
  await withHub(async (hub, settings) => {
    const refused = (name: string, message: RegExp, change: Partial<HubSettings> = {}) =>
      assert.rejects(get({ ...settings, ...change }, name), (error: Error) => {
        assert.match(error.message, message);
        assert.ok(!error.message.includes("\n"));
        return true;
      });
    await refused(
      "test-org/unknown",
      /Cannot download test-org\/unknown: the hub knows it not or wants .*\(status 401\).*check the name or set HF_TOKEN/,
    );
    await refused(
      `${NAME}@v9`,
      /the hub has no such model with revision "v9", and there is no folder of that name/,
    );
    hub.faults.token = "hf_right";
    await refused(NAME, /status 401\).*set HF_TOKEN/);
    await refused(NAME, /HF_TOKEN may not read it \(status 403\)/, { token: "hf_wrong" });
    await refused(NAME, /HF_TOKEN does not begin with hf_/, { token: "wrong" });
    await refused(NAME, /does not hold all of it and HF_HUB_OFFLINE is set/, { offline: true });
    const nobody = { endpoint: "http://127.0.0.1:1" };
    await refused(NAME, /http:\/\/127\.0\.0\.1:1 cannot be reached \(.*\), try again/, nobody);
    const { contents } = hub;
    assert.deepEqual(contents, []);
    await get({ ...settings, token: "hf_right" });
    assert.ok(hub.contents.length > 0);
  });
  await withHub(async (_, settings) => {
    await assert.rejects(
      get(settings),
      /it has no model\.safetensors \(but config\.json, pytorch_model\.bin\), choose a repository with safetensors/,
    );
  }, { "config.json": bytes("{}"), "pytorch_model.bin": WEIGHTS });
});

Deno.test("two downloads of one model at once leave one whole model", async () => {
  await withHub(async (hub, settings) => {
    const [a, b] = await Promise.all([get(settings), get(settings)]);
    assert.equal(a, b);
    assert.deepEqual(await Deno.readFile(`${a}/model.safetensors`), WEIGHTS);
    assert.equal(hub.contents.filter((r) => r.includes("/model.safetensors")).length, 1);
  });
});

Deno.test("a script that names a model of the hub trains it, and finds it offline the next time", async () => {
  await withWorld(async (world) => {
    const policy = `${world}/policy`, files: Record<string, Uint8Array<ArrayBuffer>> = {};
    for (const { name, isFile } of Deno.readDirSync(policy)) {
      if (isFile) files[name] = Deno.readFileSync(`${policy}/${name}`);
    }
    await using hub = new HubServer(NAME, files);
    const env = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: `${world}/hub`, HF_HUB_OFFLINE: "0" };
    const args = ["--world", world, "--model", NAME, "--steps", "1"];
    const { err } = await succeeds("sft.ts", [...args, "--out", `${world}/out`], { env });
    assert.match(err, /downloading test-org\/tiny_model-0\.1B: [\d.]+ \w+\ndownloaded test-org/);
    assert.equal(metricsOf(`${world}/out`).length, 1);
    const offline = { ...env, HF_HUB_OFFLINE: "1", HF_ENDPOINT: "http://127.0.0.1:1" };
    await succeeds("sft.ts", [...args, "--out", `${world}/again`], { env: offline });
    const { code, err: none } = await script("sft.ts", [
      ...["--world", world, "--model", "test-org/other", "--steps", "1", "--out", `${world}/x`],
    ], { env: offline });
    assert.equal(code, 1);
    assert.match(
      none,
      /error: Cannot load test-org\/other: there is no such folder, the cache .* HF_HUB_OFFLINE is set/,
    );
  });
});
