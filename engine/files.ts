/** Small things about files that several parts of the engine need. Paths are plain strings with `/`. */

/** `folder/name`, without a doubled slash. */
export const join = (folder: string, name: string): string =>
  folder === "" ? name : `${folder.replace(/\/+$/, "")}/${name}`;

/** The last part of a path. */
export const baseName = (path: string): string => path.replace(/\/+$/, "").split("/").at(-1) ?? "";

/** The folder that holds a path. */
export const parentOf = (path: string): string => {
  const trimmed = path.replace(/\/+$/, "");
  const slash = trimmed.lastIndexOf("/");
  return slash < 0 ? "." : slash === 0 ? "/" : trimmed.slice(0, slash);
};

/** What is at a path, or null. */
export async function statOrNull(path: string): Promise<Deno.FileInfo | null> {
  try {
    return await Deno.stat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return null;
    throw error;
  }
}

/** Text of a file, or null when there is none. */
export async function readTextOrNull(path: string): Promise<string | null> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return null;
    throw error;
  }
}

export type JsonObject = { readonly [key: string]: unknown };

/** True for `{…}`, not for lists and null. */
export const isObject = (value: unknown): value is JsonObject =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** A JSON object from a file, or null when there is no such file. Throws when the text is not one JSON object. */
export async function readJsonOrNull(path: string): Promise<JsonObject | null> {
  const text = await readTextOrNull(path);
  if (text === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new Error(
      `Cannot read ${path}: it is not valid JSON (${
        (error as Error).message
      }), repair it or take the original file`,
    );
  }
  if (!isObject(value)) {
    throw new Error(`Cannot read ${path}: it holds no JSON object, take the original file`);
  }
  return value;
}

/** As {@link readJsonOrNull}, and a missing file is an error that says what the file is for. */
export async function readJson(path: string, purpose: string): Promise<JsonObject> {
  const value = await readJsonOrNull(path);
  if (value === null) throw new Error(`Cannot read ${purpose}: there is no file ${path}`);
  return value;
}

/** Reads exactly `into.length` bytes at `offset`; false when the file ends before. */
export async function readAt(file: Deno.FsFile, offset: number, into: Uint8Array): Promise<boolean> {
  await file.seek(offset, Deno.SeekMode.Start);
  for (let done = 0; done < into.length;) {
    const n = await file.read(into.subarray(done));
    if (n === null) return false;
    done += n;
  }
  return true;
}

/** Writes all bytes; a single write may stop early. */
export async function writeAll(file: Deno.FsFile, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
}

/** Forces a folder's list of names to disk, so that a rename in it survives a power cut. */
export async function syncFolder(path: string): Promise<void> {
  using folder = await Deno.open(path);
  await folder.sync();
}

/** Writes a file so that readers see the old content or the new one, never a part. */
export async function replaceFile(path: string, text: string): Promise<void> {
  const temporary = `${path}.tmp`;
  {
    using file = await Deno.open(temporary, { write: true, create: true, truncate: true });
    await writeAll(file, new TextEncoder().encode(text));
    await file.sync();
  }
  await Deno.rename(temporary, path);
  await syncFolder(parentOf(path));
}

/** Removes a file or a folder with all that is in it; fine when there is none. */
export async function removeIfThere(path: string): Promise<void> {
  if (await statOrNull(path) !== null) await Deno.remove(path, { recursive: true });
}

/**
 * Gives a finished folder its final name. One that had the name before is moved aside first and removed last, so that at
 * every moment one of the two is whole.
 */
export async function publishFolder(finished: string, final: string): Promise<void> {
  const old = `${final}.old`;
  await syncFolder(finished);
  await removeIfThere(old);
  if (await statOrNull(final) !== null) await Deno.rename(final, old);
  await Deno.rename(finished, final);
  await syncFolder(parentOf(final));
  await removeIfThere(old);
}
