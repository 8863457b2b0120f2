/**
 * Bringing a model of the hub into the cache. Every file is fetched in pieces behind what an earlier try left (`BLOB.incomplete`), compared
 * with the checksum that the hub lists for it, and only then gets its name; the revision is written last.
 */
import { createHash } from "node:crypto";
import {
  downloadFile,
  HubApiError,
  type ListFileEntry,
  listFiles,
  modelInfo,
} from "npm:@huggingface/hub@2.17.5";
import { join, parentOf, removeIfThere, statOrNull, writeAll } from "./files.ts";
import type { HubSettings, Repository } from "./hub_settings.ts";

/** Bytes that are asked for at a time, and how many such requests wait at once. */
const PIECE = 16 << 20, AHEAD = 4;
/** Tries of one request that the connection or the server fails. */
const TRIES = 5;

interface Remote extends HubSettings {
  readonly repository: Repository;
  readonly commit: string;
  readonly access: { readonly hubUrl: string; readonly accessToken?: string };
}

/**
 * Downloads what Baton reads of a model: configuration, tokenizer and safetensors.
 *
 * @param folder of the repository in the cache
 * @returns the folder of the snapshot
 */
export async function downloadModel(
  repository: Repository,
  hub: HubSettings,
  folder: string,
): Promise<string> {
  const { name, revision } = repository, { endpoint, token } = hub;
  if (token !== undefined && !token.startsWith("hf_")) {
    throw new Error(
      `Cannot download ${name}: HF_TOKEN does not begin with hf_, give an access token of the hub`,
    );
  }
  const access = { hubUrl: endpoint, ...(token !== undefined && { accessToken: token }) };
  const { sha: commit } = await asked(
    repository,
    hub,
    () => modelInfo({ ...access, name, revision, additionalFields: ["sha"] }),
  );
  const files = wantedFiles(
    name,
    await asked(
      repository,
      hub,
      () => Array.fromAsync(listFiles({ ...access, repo: name, revision: commit })),
    ),
  );
  const remote: Remote = { ...hub, repository, commit, access },
    snapshot = join(folder, `snapshots/${commit}`);
  await Deno.mkdir(join(folder, "blobs"), { recursive: true });
  await Deno.mkdir(snapshot, { recursive: true });
  const there = await Promise.all(files.map((file) => bytesThere(folder, file)));
  let done = there.reduce((n, bytes) => n + bytes, 0);
  hub.progress.start(name, files.reduce((n, file) => n + file.size, 0), done);
  try {
    for (const file of files) {
      await fetchFile(remote, folder, file, (bytes) => hub.progress.update(done += bytes));
      await link(`../../blobs/${checksumOf(file)}`, join(snapshot, file.path));
    }
  } finally {
    hub.progress.stop();
  }
  if (revision !== commit) {
    await Deno.mkdir(parentOf(join(folder, `refs/${revision}`)), { recursive: true });
    await Deno.writeTextFile(join(folder, `refs/${revision}`), commit);
  }
  return snapshot;
}

const SMALL =
  /^(?:config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json$|^merges\.txt$|^chat_template\.jinja$|^tokenizer\.model$/;
const SHARD = /^model-\d+-of-\d+\.safetensors$/;

/** Weights in one file where there is one, else in shards: some repositories hold them in further formats. */
function wantedFiles(name: string, all: readonly ListFileEntry[]): readonly ListFileEntry[] {
  const files = all.filter((file) => file.type === "file"), whole = "model.safetensors";
  const weights = files.some((file) => file.path === whole)
    ? files.filter((file) => file.path === whole)
    : files.filter((file) => file.path === `${whole}.index.json` || SHARD.test(file.path));
  if (weights.length === 0) {
    throw new Error(
      `Cannot download ${name}: it has no model.safetensors (but ${
        files.slice(0, 8).map((file) => file.path).join(", ") || "no file"
      }), choose a repository with safetensors`,
    );
  }
  return [...files.filter((file) => SMALL.test(file.path)), ...weights];
}

/** SHA-256 of large files, Git's SHA-1 of small ones: what the blob is named by in the cache. */
const checksumOf = (file: ListFileEntry): string => file.lfs?.oid ?? file.oid!;
const blobOf = (folder: string, file: ListFileEntry): string => join(folder, `blobs/${checksumOf(file)}`);

async function bytesThere(folder: string, file: ListFileEntry): Promise<number> {
  const blob = blobOf(folder, file);
  const size = (await statOrNull(blob) ?? await statOrNull(`${blob}.incomplete`))?.size ?? 0;
  return Math.min(size, file.size);
}

/** Leaves the blob of a file in the cache. `onBytes` hears what came, and a negative number where it had to go again. */
async function fetchFile(
  remote: Remote,
  folder: string,
  file: ListFileEntry,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const blob = blobOf(folder, file), incomplete = `${blob}.incomplete`;
  if (await statOrNull(blob) !== null) return;
  using out = await Deno.open(incomplete, { read: true, write: true, create: true });
  // Two runs that start at once would write the same file: the second one waits, and finds it there.
  await out.lock(true);
  if (await statOrNull(blob) !== null) return await removeIfThere(incomplete);
  for (let fresh = false;; fresh = true) {
    const start = fresh ? 0 : (await out.stat()).size;
    await fetchPieces(remote, file, out, start, onBytes);
    if (await checksum(incomplete, file) === checksumOf(file)) break;
    await out.truncate(0);
    if (fresh || start === 0) {
      throw new Error(
        `Cannot download ${file.path} of ${remote.repository.name}: its checksum is not ${
          checksumOf(file)
        }, try again or name another revision`,
      );
    }
    // What an earlier try left was wrong.
    onBytes(-file.size);
  }
  await out.sync();
  await Deno.rename(incomplete, blob);
}

async function fetchPieces(
  { access, repository, commit, ...hub }: Remote,
  file: ListFileEntry,
  out: Deno.FsFile,
  start: number,
  onBytes: (bytes: number) => void,
): Promise<void> {
  if (start > file.size) {
    await out.truncate(0);
    start = 0;
  }
  await out.seek(start, Deno.SeekMode.Start);
  const url = `${access.hubUrl}/${repository.name}/resolve/${commit}/${file.path}`;
  const downloadInfo = { size: file.size, etag: checksumOf(file), url };
  const blob = await downloadFile({
    ...access,
    repo: repository.name,
    path: file.path,
    downloadInfo,
    xet: false,
  });
  const piece = (from: number) =>
    asked(repository, hub, async () => {
      const to = Math.min(from + PIECE, file.size);
      const bytes = new Uint8Array(await blob!.slice(from, to).arrayBuffer());
      if (bytes.length !== to - from) {
        throw new TypeError(`${bytes.length} bytes came instead of ${to - from}`);
      }
      return bytes;
    });
  const waiting: Promise<Uint8Array>[] = [];
  for (let next = start, written = start; written < file.size;) {
    for (; next < file.size && waiting.length < AHEAD; next += PIECE) {
      const bytes = piece(next);
      // A failure is met when it is this piece's turn.
      bytes.catch(() => {});
      waiting.push(bytes);
    }
    const bytes = await waiting.shift()!;
    await writeAll(out, bytes);
    written += bytes.length;
    onBytes(bytes.length);
  }
}

async function checksum(path: string, file: ListFileEntry): Promise<string> {
  const hash = file.lfs ? createHash("sha256") : createHash("sha1").update(`blob ${file.size}\0`);
  for await (const bytes of (await Deno.open(path)).readable) hash.update(bytes);
  return hash.digest("hex");
}

async function link(target: string, path: string): Promise<void> {
  if (await statOrNull(path) !== null) return;
  // Another run may be about to do the same.
  const temporary = `${path}.${crypto.randomUUID()}`;
  await Deno.symlink(target, temporary);
  await Deno.rename(temporary, path);
}

/** Asks again what the connection or the server failed, and says in one line what the hub refuses. */
async function asked<T>(
  { name, revision }: Repository,
  { endpoint, pause, token }: Pick<HubSettings, "endpoint" | "pause" | "token">,
  ask: () => Promise<T>,
): Promise<T> {
  for (let tries = 1;; tries++) {
    try {
      return await ask();
    } catch (error) {
      const status = error instanceof HubApiError ? error.statusCode : null;
      if (status !== null && status < 500 && status !== 429) {
        throw new Error(`Cannot download ${name}: ${refusal(status, revision, token !== undefined)}`, {
          cause: error,
        });
      }
      if (tries < TRIES) await new Promise((next) => setTimeout(next, pause * 2 ** (tries - 1)));
      else {
        const why = status !== null
          ? `answers with status ${status}`
          : `cannot be reached (${(error as Error).message})`;
        throw new Error(
          `Cannot download ${name}: ${endpoint} ${why}, try again: what is there is gone on from`,
          { cause: error },
        );
      }
    }
  }
}

function refusal(status: number, revision: string, hasToken: boolean): string {
  const folder = "and there is no folder of that name";
  if (status === 404) {
    return `the hub has no such model with revision "${revision}", ${folder}, check the name`;
  }
  if (status !== 401 && status !== 403) return `the hub refuses it with status ${status}`;
  return hasToken
    ? `HF_TOKEN may not read it (status ${status}), ask for access on the model's page or check the name`
    : `the hub knows it not or wants to know who asks (status ${status}), ${folder}, check the name or set HF_TOKEN`;
}
