/** Ranks that meet in collective operations. */
import { AXES, type Axis } from "../ir/op.ts";
import { check, create } from "./errors.ts";
import { native } from "./library.ts";

/**
 * Ranks of one axis that meet in collective operations. When one of them fails, is cancelled or does not come within the
 * deadline, the operation and every later one of the group fail on all: make a new one.
 */
export class Group implements Disposable {
  private constructor(readonly id: number, readonly size: number) {}

  /** @param deadlineSeconds How long a rank waits for the others in one operation. */
  static create(size: number, deadlineSeconds: number): Group {
    const deadline = Math.min(0xffffffff, Math.max(1, Math.round(deadlineSeconds * 1000)));
    const id = create(
      (id) => native().baton_group_create(size, deadline, id),
      `make a group of ${size} ranks`,
    );
    return new Group(id, size);
  }

  /** Queued jobs that are in it go on. */
  [Symbol.dispose](): void {
    check(native().baton_group_destroy(this.id), "free a group");
  }
  dispose(): void {
    this[Symbol.dispose]();
  }
}

/** A device's place in a group. A rank stays with the device that was first submitted for it. */
export interface Membership {
  readonly group: Group;
  readonly rank: number;
}

/** What a job is a member of. */
export type Memberships = Readonly<Partial<Record<Axis, Membership>>>;

/** The array of `baton_membership` that `baton_submit` takes, by axis. */
export const encodeGroups = (groups: Memberships): Uint32Array<ArrayBuffer> =>
  Uint32Array.from(AXES.flatMap((axis) => {
    const member = groups[axis];
    return member ? [member.group.id, member.rank] : [0xffffffff, 0];
  }));

/** Why memberships were refused, when the ranks are not what the groups have. */
export const misgrouped = (groups: Memberships): string[] =>
  Object.entries(groups).filter(([, m]) => m && !(m.rank >= 0 && m.rank < m.group.size))
    .map(([axis, m]) => `rank ${m.rank} of a ${axis} group of ${m.group.size}`);
