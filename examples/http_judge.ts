/**
 * A reward service to try custom_reward.ts with: answers POST {prompt, response} with {score}, the share of what makes a
 * couplet that the response has.
 *
 *     deno run -A examples/http_judge.ts --port 8765
 */
import { judge } from "./couplets/rhyme.ts";

/** Serves until the server is shut down; port 0 takes a free one. */
export function serveJudge(port: number): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ port, onListen: () => {} }, async (request) => {
    const { prompt, response } = await request.json();
    const { rhymes, wellFormed } = judge(prompt, response);
    return Response.json({ score: (Number(rhymes) + Number(wellFormed)) / 2 });
  });
}

if (import.meta.main) {
  const at = Deno.args.indexOf("--port"), { addr } = serveJudge(Number(Deno.args[at + 1] ?? 8765));
  console.log(`http://localhost:${addr.port}`);
}
