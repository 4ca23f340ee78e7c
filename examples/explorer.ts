// A small explorer of an ailo node, made of nothing but the OpenRPC document that the node serves.
//
//     node --experimental-strip-types examples/explorer.ts [URL] [--address ADDRESS] [--blocks N]     (Node 22.6 or newer)
//     tsc --strict --target es2022 --module esnext --outDir made examples/explorer.ts && node --experimental-websocket made/explorer.js     (Node 20.19)
//
// It asks `rpc.discover`, makes a client whose methods are those of the document, shows the node's status, the newest blocks and what
// happened to an address (the node's own, unless told otherwise), and then follows N new blocks over WebSocket. It needs nothing beside
// Node; where Node has no WebSocket of its own (before 22), start it with --experimental-websocket.

export {};

declare const process: { argv: string[]; exit(code: number): never };

type Json = null | boolean | number | string | Json[] | { [name: string]: Json };
type Params = { [name: string]: Json };

/** What of an OpenRPC document a client is made of. */
interface Method {
  name: string;
  summary: string;
  params: { name: string; required?: boolean }[];
  "x-subscription"?: { notification: string; unsubscribe: string };
}
interface OpenRpc {
  info: { title: string; version: string };
  methods: Method[];
}
interface Failure {
  code: number;
  message: string;
  data?: { code: string };
}
interface Message {
  method?: string;
  params?: { result: Json };
  result?: Json;
  error?: Failure;
}

/** An error of the node's, with the name that does not change between versions. */
class RpcError extends Error {
  readonly code: string;
  constructor(failure: Failure) {
    super(failure.message);
    this.code = failure.data?.code ?? String(failure.code);
  }
}

async function ask(url: string, method: string, params: Params): Promise<Json> {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
  const headers = { "content-type": "application/json" };
  const answer = await fetch(url, { method: "POST", headers, body }).catch(() => {
    throw new Error(`no node answers at ${url}: start one with \`ailo-node run\``);
  });
  const reply = (await answer.json()) as Message;
  if (reply.error) throw new RpcError(reply.error);
  return reply.result ?? null;
}

/** The parameters, if the document knows them and none is missing. */
function checked(method: Method, params: Params): Params {
  const known = new Map(method.params.map((param) => [param.name, param.required ?? false]));
  for (const name of Object.keys(params)) {
    if (!known.has(name)) throw new TypeError(`${method.name} takes no ${name}`);
  }
  for (const [name, required] of known) {
    if (required && !(name in params)) throw new TypeError(`${method.name} needs ${name}`);
  }
  return params;
}

/** What a subscription tells, one after another, until the caller has enough. */
async function* follow(url: string, method: Method, params: Params): AsyncGenerator<Json> {
  const socket = new WebSocket(url.replace(/^http/, "ws"));
  const told: Message[] = [];
  let wake: () => void = () => {};
  let ended: string | undefined;
  socket.onopen = () =>
    socket.send(JSON.stringify({ jsonrpc: "2.0", id: 1, method: method.name, params: checked(method, params) }));
  socket.onmessage = (event: MessageEvent) => {
    told.push(JSON.parse(String(event.data)) as Message);
    wake();
  };
  socket.onclose = socket.onerror = () => {
    ended = "the node closed the connection";
    wake();
  };
  try {
    for (;;) {
      const message = told.shift();
      if (message?.error) throw new RpcError(message.error);
      if (message?.method === method["x-subscription"]?.notification && message?.params) yield message.params.result;
      if (message) continue;
      if (ended) throw new Error(ended);
      await new Promise<void>((resolve) => (wake = resolve));
    }
  } finally {
    socket.close();
  }
}

/** A node's methods, as its OpenRPC document names them. */
async function connect(url: string) {
  const document = (await ask(url, "rpc.discover", {})) as unknown as OpenRpc;
  const find = (name: string): Method => {
    const method = document.methods.find((method) => method.name === `ailo_${name}`);
    if (!method) throw new TypeError(`the node has no method ailo_${name}`);
    return method;
  };
  // The caller knows from the document what comes back, and says so.
  const call = async <T>(name: string, params: Params = {}): Promise<T> => {
    const method = find(name);
    return (await ask(url, method.name, checked(method, params))) as T;
  };
  const subscribe = (name: string, params: Params = {}): AsyncGenerator<Json> => follow(url, find(name), params);
  return { document, call, subscribe };
}

interface Header {
  height: number;
  state_root: string;
}
interface Status {
  height: number;
  state_root: string;
  network_name: string;
  wallet: string;
  peers: number;
  round: { number: number; phase: string };
}

async function main(words: string[]): Promise<void> {
  const flag = (name: string): string | undefined => {
    const at = words.indexOf(name);
    return at < 0 ? undefined : words.splice(at, 2)[1];
  };
  const wanted = flag("--address");
  const blocks = Number(flag("--blocks") ?? 3);
  const url = words[0] ?? "http://127.0.0.1:8645/rpc";
  const node = await connect(url);
  const { title, version } = node.document.info;
  console.log(`${title} ${version}: ${node.document.methods.length} methods`);

  const status = await node.call<Status>("status");
  console.log(`network ${status.network_name}, height ${status.height}, state root ${status.state_root.slice(0, 16)}`);
  console.log(`round ${status.round.number}: ${status.round.phase}, ${status.peers} peers`);

  console.log("newest blocks");
  const page = await node.call<{ blocks: { hash: string; transactions: number; header: Header }[] }>("blocks", { limit: 5 });
  for (const { hash, transactions, header } of page.blocks) {
    console.log(`  ${header.height}  ${hash.slice(0, 16)}  ${transactions} transactions`);
  }

  const address = wanted ?? status.wallet;
  const account = await node.call<{ free: string }>("account", { address });
  console.log(`${address} has ${account.free} ALC`);
  type Entry = { height: number; free: string | null; event: { event: string } };
  const history = await node.call<{ entries: Entry[] }>("history", { address, limit: 5 });
  for (const { height, free, event } of history.entries) {
    console.log(`  block ${height}  ${free} ALC then  ${event.event}`);
  }

  console.log("new blocks");
  let seen = 0;
  for await (const told of node.subscribe("subscribeBlocks")) {
    const header = told as unknown as Header;
    console.log(`  ${header.height}  state root ${header.state_root.slice(0, 16)}`);
    if (++seen >= blocks) break;
  }
}

main(process.argv.slice(2)).then(
  () => process.exit(0),
  (e: unknown) => {
    const code = e instanceof RpcError ? ` (${e.code})` : "";
    console.error(`error: ${e instanceof Error ? e.message : e}${code}`);
    process.exit(1);
  },
);
