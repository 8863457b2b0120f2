/** The file of a cluster that is planned for: a profile of its devices, how many there are, and how they are joined. */
import { z } from "npm:zod@4.6.7";
import { readTextOrNull } from "../engine/files.ts";
import { parse } from "../engine/yaml.ts";
import type { Cluster } from "../ir/plan.ts";
import { parseProfile, type Profile, roofline } from "../planner/profile.ts";

/** A cluster and what its devices can do. */
export interface ClusterFile {
  readonly cluster: Cluster;
  readonly profile: Profile;
  /** Seconds that score calls take for a whole step, by call. */
  readonly hostSeconds: Readonly<Record<string, number>>;
}

/** Profiles that come with Baton, in `profiles/`. */
export const SHIPPED = ["a100", "h100", "h200", "cpu"] as const;

const positive = z.int().positive(), number = z.number().positive();
const links = z.array(
  z.strictObject({ devices: positive, microseconds: z.number().nonnegative(), GBps: number }),
).min(1);
const schema = z.strictObject({
  /** One of {@link SHIPPED}, the path of a profile, or a data sheet. */
  profile: z.union([
    z.string().min(1),
    z.strictObject({
      name: z.string().min(1),
      teraflops: number,
      memoryGBps: number,
      memoryGiB: number,
      hostGBps: number.default(32),
      elementBytes: z.union([z.literal(2), z.literal(4)]).default(2),
    }),
  ]),
  nodes: positive.default(1),
  /** A list has one number for every node. */
  devicesPerNode: z.union([positive, z.array(positive).min(1)]),
  memoryGiB: number.optional(),
  /** Devices that can be busy at once without making one another slower. */
  capacity: number.optional(),
  /** Whether devices communicate while they compute. */
  overlaps: z.boolean().optional(),
  links: links.optional(),
  /** Seconds of score calls. */
  host: z.record(z.string(), z.number().nonnegative()).default({}),
});

/** @throws one line that lists everything that is wrong with the file */
export async function readCluster(path: string): Promise<ClusterFile> {
  const text = await readTextOrNull(path);
  if (text === null) {
    throw new Error(`Cannot read the cluster: there is no file ${path}, give one as in examples/cluster`);
  }
  const parsed = schema.safeParse(parse(text));
  if (!parsed.success) {
    const found = parsed.error.issues.map((i) => `${i.path.join(".") || "the file"}: ${i.message}`);
    throw new TypeError(`Cannot use ${path}: ${found.join("; ")}, see examples/cluster`);
  }
  const { profile: said, nodes: count, devicesPerNode: each, memoryGiB } = parsed.data;
  if (Array.isArray(each) && new Set(each).size > 1) {
    throw new TypeError(
      `Cannot use ${path}: its nodes have ${
        each.join(", ")
      } devices, plan for those of one size: unequal nodes are not supported`,
    );
  }
  const nodes = Array.isArray(each) ? each.length : count,
    devicesPerNode = Array.isArray(each) ? each[0]! : each;
  if (typeof said !== "string" && !parsed.data.links) {
    throw new TypeError(`Cannot use ${path}: a data sheet says nothing of links, give links`);
  }
  const profile = typeof said === "string" ? await readProfile(said, path) : roofline({
    ...said,
    memoryBytes: said.memoryGiB * 2 ** 30,
    links: parsed.data.links!,
  });
  const { capacity, overlaps } = parsed.data;
  return {
    profile: {
      ...profile,
      ...capacity !== undefined && { capacity },
      ...overlaps !== undefined && { overlaps },
    },
    hostSeconds: parsed.data.host,
    cluster: {
      nodes,
      devicesPerNode,
      memoryBytes: memoryGiB === undefined ? profile.memoryBytes : memoryGiB * 2 ** 30,
      links: (parsed.data.links ?? profile.links).toSorted((a, b) => a.devices - b.devices),
    },
  };
}

/** A shipped profile by name, or one that `baton profile` wrote. */
export async function readProfile(name: string, wantedBy: string): Promise<Profile> {
  const shipped = (SHIPPED as readonly string[]).includes(name);
  const path = shipped ? new URL(`../profiles/${name}.json`, import.meta.url).pathname : name;
  const text = await readTextOrNull(path);
  if (text === null) {
    throw new Error(
      `Cannot read profile ${name}, which ${wantedBy} names: there is no such file, give ${
        SHIPPED.join(", ")
      } or the path of one`,
    );
  }
  return profileOf(text, path);
}

/** @throws TypeError when the text is no profile */
export function profileOf(text: string, path: string): Profile {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new TypeError(
      `Cannot use ${path}: it is not valid JSON (${
        (error as Error).message
      }), make it again with baton profile`,
    );
  }
  return parseProfile(value, path);
}
