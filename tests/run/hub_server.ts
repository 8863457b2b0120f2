/** A local server that speaks as much of the hub's protocol as a download needs, and misbehaves when asked to. */
import { createHash } from "node:crypto";

export interface Faults {
  /** Requests for file contents that break off after half of what they owe. */
  cut?: number;
  /** Requests for file contents that are answered with status 503. */
  busy?: number;
  /** Every request for contents from this byte on is answered with status 503. */
  busyFrom?: number;
  /** Files whose contents differ from what is listed: so many times. */
  corrupt?: Record<string, number>;
  /** Who may read it; anyone where absent. */
  token?: string;
}

/** Files of a repository by name; those above this size are large ones, stored apart and named by SHA-256. */
const LARGE = 1000;

export class HubServer implements AsyncDisposable {
  /** "GET /path bytes=0-9" of every request. */
  readonly requests: string[] = [];
  readonly faults: Faults = {};
  readonly #server: Deno.HttpServer<Deno.NetAddr>;

  constructor(
    readonly name: string,
    readonly files: Readonly<Record<string, Uint8Array<ArrayBuffer>>>,
    readonly commit = "a".repeat(40),
  ) {
    this.#server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      (request) => this.#answer(request),
    );
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.#server.addr.port}`;
  }
  /** Requests for contents. */
  get contents(): string[] {
    return this.requests.filter((r) => r.includes("/stored/"));
  }

  #answer(request: Request): Response {
    const { pathname } = new URL(request.url), range = request.headers.get("range");
    this.requests.push([request.method, pathname, ...(range ? [range] : [])].join(" "));
    const { token } = this.faults, api = `/api/models/${this.name}`;
    if (!pathname.includes(this.name)) return this.#refused(401, "Repository not found");
    if (token !== undefined && request.headers.get("authorization") !== `Bearer ${token}`) {
      return this.#refused(request.headers.has("authorization") ? 403 : 401, "Access is restricted");
    }
    const revisions = ["main", this.commit];
    if (pathname.startsWith(`${api}/revision/`)) {
      const known = revisions.includes(pathname.split("/").at(-1)!);
      return known
        ? Response.json({ _id: "1", id: this.name, sha: this.commit, lastModified: "2026-01-01" })
        : this.#refused(404, "Invalid rev id");
    }
    if (pathname === `${api}/tree/${this.commit}`) return Response.json(this.#tree());
    const resolve = `/${this.name}/resolve/${this.commit}/`;
    if (pathname.startsWith(resolve)) {
      const file = pathname.slice(resolve.length);
      if (!this.files[file]) return this.#refused(404, "Entry not found");
      return Response.redirect(`${this.endpoint}/stored/${this.name}/${file}`, 302);
    }
    return this.#content(pathname.slice(`/stored/${this.name}/`.length), range);
  }

  #refused(status: number, error: string): Response {
    return Response.json({ error }, { status });
  }

  #tree() {
    return Object.entries(this.files).map(([path, bytes]) => {
      const oid = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
      const lfs = {
        oid: createHash("sha256").update(bytes).digest("hex"),
        size: bytes.length,
        pointerSize: 130,
      };
      return { type: "file", path, size: bytes.length, oid, ...(bytes.length > LARGE && { lfs }) };
    });
  }

  #content(file: string, range: string | null): Response {
    const { faults } = this, whole = this.files[file]!;
    const [, from = "0", to] = /bytes=(\d+)-(\d+)/.exec(range ?? "") ?? [];
    if (faults.busy || Number(from) >= (faults.busyFrom ?? Infinity)) {
      if (faults.busy) faults.busy--;
      return this.#refused(503, "busy");
    }
    const bytes = whole.slice(Number(from), to === undefined ? whole.length : Number(to) + 1);
    if (faults.corrupt?.[file]) {
      faults.corrupt[file]--;
      bytes[0]! ^= 1;
    }
    const headers = { "content-length": String(bytes.length) };
    if (!faults.cut) return new Response(bytes, { status: range ? 206 : 200, headers });
    faults.cut--;
    // Less than the header says: the connection is closed in the middle.
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(bytes.slice(0, bytes.length / 2));
        controller.close();
      },
    });
    return new Response(body, { status: range ? 206 : 200, headers });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}
