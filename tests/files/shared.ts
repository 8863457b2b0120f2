/** Tests on real models and tokenizers, which are too large to be part of the project. */

/** Where they lie when they are there: beside the project. */
export const SHARED = new URL("../../../shared/assets/", import.meta.url).pathname;

const present = (path: string): boolean => {
  try {
    Deno.statSync(SHARED + path);
    return true;
  } catch {
    return false;
  }
};

/** Registers a test that needs `path` of the shared assets; where it is absent the test is skipped and says so. */
export function sharedTest(name: string, path: string, fn: () => void | Promise<void>): void {
  const ignore = !present(path);
  if (ignore) console.log(`skipped: "${name}" needs ${SHARED}${path}`);
  Deno.test({ name, fn, ignore });
}

/** Runs with a folder of its own that is removed afterwards. */
export async function withFolder(fn: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "baton-test-" });
  try {
    await fn(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
