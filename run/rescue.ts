/** What is left of a run that fails: the steps that it has made. */
import { latestCheckpoint } from "../engine/checkpoint.ts";
import type { Resolved } from "./resolve.ts";
import type { Session } from "./session.ts";

/**
 * Keeps the steps that were made before something failed, where the weights still are those of the last of them, and says from
 * which checkpoint the run can go on. Throws nothing: what failed first is what has to be heard.
 *
 * @param save writes a checkpoint
 */
export async function rescue(session: Session, o: Resolved, save: () => Promise<string>): Promise<void> {
  const newest = () => latestCheckpoint(`${o.out}/checkpoints`).catch(() => null);
  try {
    await session.settle();
    if (session.completed > ((await newest())?.step ?? 0) && session.intact) await save();
  } catch {
    // A disk that is full is so for this checkpoint too.
  }
  const kept = await newest();
  if (kept) {
    console.error(
      `Kept after step ${kept.step} of ${o.steps}: add --resume to the same command to go on from ${kept.path}`,
    );
  }
}

/** What the operating system says when the output folder is written to, as one line with a way out; anything else as it is. */
export function plainly(error: unknown, { out }: Resolved): unknown {
  if (!(error instanceof Error) || error.message.startsWith("Cannot ")) return error;
  const { code } = error as { readonly code?: unknown };
  if (typeof code !== "string" || !/^E[A-Z0-9]+$/.test(code)) return error;
  const advice = code === "ENOSPC" || code === "EDQUOT"
    ? "free some space there"
    : "see that it is there and can be written";
  return new Error(`Cannot write into ${out}: ${error.message}, ${advice}`, { cause: error });
}
