/** Memory of this machine, where a container allows less of it than there is. */

export interface Memory {
  readonly totalBytes: number;
  readonly availableBytes: number;
}

export function memory(): Memory {
  const { total, available } = Deno.systemMemoryInfo(), limit = containerLimit();
  return { totalBytes: Math.min(total, limit), availableBytes: Math.min(available, limit) };
}

function containerLimit(): number {
  try {
    const text = Deno.readTextFileSync("/sys/fs/cgroup/memory.max").trim();
    return text === "max" ? Infinity : Number(text);
  } catch {
    return Infinity;
  }
}
