/** Where in the user's script something was written: "ppo.ts:14". For messages and printed graphs only. */

const here = import.meta.url.slice(0, import.meta.url.lastIndexOf("/") + 1);

/** The nearest caller outside this folder, or nothing where the stack does not say. */
export function callSite(): string | undefined {
  for (const line of new Error().stack?.split("\n") ?? []) {
    const [, url, row] = /((?:file|https?|jsr|npm|data|blob):[^\s()]*?):(\d+):\d+\)?$/.exec(line) ?? [];
    if (url && row && !url.startsWith(here)) return `${url.slice(url.lastIndexOf("/") + 1)}:${row}`;
  }
  return undefined;
}

/** The end of a message: " (ppo.ts:14)", or nothing where the place is not known. */
export const at = (site: string | undefined): string => site ? ` (${site})` : "";
