/**
 * Where the files of a model are: a local folder, else the local Hugging Face cache, else the hub, from where they are brought into
 * that cache. Layout of the cache: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
 */
import { isObject, join, readJsonOrNull, readTextOrNull, statOrNull } from "./files.ts";
import { type HubSettings, hubSettings, type Repository } from "./hub_settings.ts";

/** "Qwen/Qwen3-0.6B" or "Qwen/Qwen3-0.6B@revision"; null for what can only be a path. */
export function repositoryOf(model: string): Repository | null {
  const [, name, revision = "main"] = /^(\w[\w.-]*\/\w[\w.-]*)(?:@([\w][\w./-]*))?$/.exec(model) ?? [];
  return name === undefined || /\.\.|--|\.git$/.test(name) || revision.includes("..")
    ? null
    : { name, revision };
}

/**
 * The folder with config.json and weights of a model: the folder that `model` names, else that of a model of the hub, which is
 * downloaded where the cache does not hold all of it.
 *
 * @throws Error with one line that says what to do where neither is there
 */
export async function modelFolder(
  model: string,
  settings: () => HubSettings = hubSettings,
): Promise<string> {
  const repository = repositoryOf(model);
  if (repository === null || await statOrNull(model) !== null) return model;
  const hub = settings(), cached = await cachedModel(repository, hub.cache);
  if (cached !== null) return cached;
  if (hub.offline) {
    throw new Error(
      `Cannot load ${model}: there is no such folder, the cache ${hub.cache} does not hold all of it and HF_HUB_OFFLINE is set, ` +
        `unset it or give a folder`,
    );
  }
  // Every worker of a run would load the hub's client too, and nearly no run needs it.
  const { downloadModel } = await import("./hub_download.ts");
  return await downloadModel(repository, hub, folderIn(hub.cache, repository));
}

const folderIn = (cache: string, { name }: Repository): string =>
  join(cache, `models--${name.replace("/", "--")}`);

/** The snapshot of a revision in the cache, or null where it is not there or a file of it is missing. */
export async function cachedModel(repository: Repository, cache: string): Promise<string | null> {
  const folder = folderIn(cache, repository), { revision } = repository;
  const commit = (await readTextOrNull(join(folder, `refs/${revision}`)))?.trim() ?? revision;
  const snapshot = join(folder, `snapshots/${commit}`);
  return await isWhole(snapshot) ? snapshot : null;
}

/** Whether a folder has a configuration and every file of the weights. Links to blobs that are gone do not count. */
async function isWhole(folder: string): Promise<boolean> {
  const has = async (name: string) => await statOrNull(join(folder, name)) !== null;
  if (!await has("config.json")) return false;
  if (await has("model.safetensors")) return true;
  const map = (await readJsonOrNull(join(folder, "model.safetensors.index.json")))?.["weight_map"];
  if (!isObject(map)) return false;
  const shards = await Promise.all([...new Set(Object.values(map))].map((name) => has(String(name))));
  return shards.every((there) => there);
}
