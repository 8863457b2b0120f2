/** The peers' benchmark beside ours: the same case, in turn, on the same machine. */

export interface Peer {
  readonly python: string;
  readonly script: string;
  readonly size: string;
  readonly threads: number;
  readonly budget: number;
}
type Result = Readonly<Record<string, unknown>>;

/** What the peers call a case that has another name. */
const NAMES: Readonly<Record<string, string>> = { ppo_step: "ppo_handwritten", grpo_step: "trl_grpo" };
const WITHOUT_PEER = ["trace_and_plan", "start_to_first_step"];
/** Ours, theirs, ours, theirs: a neighbour who comes or goes is seen. */
const ROUNDS = 2;

/** The peer that the environment names, or null. */
export function peerOf(o: Pick<Peer, "size" | "threads" | "budget">): Peer | null {
  const script = Deno.env.get("BATON_PEER");
  return script ? { python: Deno.env.get("BATON_PEER_PYTHON") ?? "python3", script, ...o } : null;
}

/** Our best round, with the peer's figures and `ratio`: our tokens (or steps) per second over the better of theirs. */
export async function comparePeer(peer: Peer, name: string, own: () => Promise<Result>): Promise<Result> {
  if (WITHOUT_PEER.includes(name)) return await own();
  const ours: Result[] = [], theirs: { readonly threads: number; readonly result: Result }[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    for (const threads of new Set([1, peer.threads])) {
      ours.push(await own());
      theirs.push({ threads, result: await runPeer(peer, NAMES[name] ?? name, threads) });
    }
  }
  const failed = [...ours, ...theirs.map((t) => t.result)].find((r) => "error" in r);
  if (failed) return { ...ours[0], peer_error: failed.error };
  const fastest = (rs: readonly Result[], key: "median" | "best") =>
    Math.max(...rs.map((r) => 1 / seconds(r, key)));
  const peers = theirs.map((t) => t.result),
    mine = [...ours].sort((a, b) => seconds(a, "median") - seconds(b, "median"))[0]!;
  return {
    ...mine,
    rounds_s: ours.map((r) => seconds(r, "median")),
    peer_rounds_s: theirs.map(({ threads, result }) => ({
      threads,
      median_s: seconds(result, "median"),
      best_s: seconds(result, "best"),
    })),
    ratio: fastest(ours, "median") / fastest(peers, "median"),
    ratio_best: fastest(ours, "best") / fastest(peers, "best"),
  };
}

const seconds = (r: Result, key: "median" | "best"): number =>
  Number(r[`${key}_s`] ?? r[key === "median" ? "s_per_step" : "s_per_step_best"]);

async function runPeer(peer: Peer, name: string, threads: number): Promise<Result> {
  const args = [
    peer.script,
    "--size",
    peer.size,
    "--threads",
    String(threads),
    "--only",
    `^${name}$`,
    "--budget",
    String(peer.budget),
  ];
  const { stdout, stderr } = await new Deno.Command(peer.python, { args, stdout: "piped", stderr: "piped" })
    .output();
  const text = new TextDecoder(), line = text.decode(stdout).trim().split("\n").at(-1);
  return line
    ? JSON.parse(line)
    : { error: text.decode(stderr).trim().slice(-300) || `${peer.script} has no case ${name}` };
}
