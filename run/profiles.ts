/** Profiles of this machine: what `baton profile` measured, kept for the runs that follow. */
import { availableParallelism, cpus } from "node:os";
import { cacheFolder } from "../engine/cache_folder.ts";
import { join, readTextOrNull, replaceFile } from "../engine/files.ts";
import { canonical, fnv1a } from "../ir/digest.ts";
import type { Profile } from "../planner/profile.ts";
import { profileOf, readProfile } from "./cluster.ts";

/** Devices of so many threads that this machine has processors for. */
export const capacityOf = (threads: number): number => Math.max(1, availableParallelism() / threads);

/** Equal for machines of one kind: folders of users are shared between machines. */
export function machineKey(): string {
  return fnv1a(canonical([Deno.build.arch, Deno.build.os, cpus()[0]?.model ?? "", availableParallelism()]));
}

const folder = (): string => join(cacheFolder(), "profiles");
const nameOf = (count: number, threads: number): string => `cpu-${machineKey()}-${count}x${threads}.json`;

/** Keeps a profile for the runs of this machine. Returns its path. */
export async function keepProfile(text: string, count: number, threads: number): Promise<string> {
  await Deno.mkdir(folder(), { recursive: true });
  const path = join(folder(), nameOf(count, threads));
  await replaceFile(path, text);
  return path;
}

/**
 * What was measured of this machine with so many threads a device, on the most like number of devices; the shipped CPU profile where
 * nothing was.
 */
export async function profileOfMachine(count: number, threads: number): Promise<Profile> {
  const pattern = new RegExp(`^cpu-${machineKey()}-(\\d+)x${threads}\\.json$`),
    found: [string, number][] = [];
  try {
    for await (const { name } of Deno.readDir(folder())) {
      const devices = Number(pattern.exec(name)?.[1]);
      if (devices) found.push([name, Math.abs(Math.log(devices / count))]);
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  const [best] = found.sort(([a, x], [b, y]) => x - y || (a < b ? -1 : 1));
  if (!best) return await readProfile("cpu", "a run");
  const path = join(folder(), best[0]), text = await readTextOrNull(path);
  return profileOf(text ?? "", path);
}
