// A customer's program: a conversation through the client that was generated from the document.
import createClient from "openapi-fetch";
import type { components, paths } from "./pollux.js";

type Event = components["schemas"]["Event"];
type Status = components["schemas"]["StatusReply"];

const [baseUrl, key, ...messages] = process.argv.slice(2);
if (!baseUrl || !key) throw new Error("usage: chat.js BASE KEY MESSAGE...");
const client = createClient<paths>({ baseUrl, headers: { "X-API-Key": key } });

async function submit(message: string, session_id: string | null, idempotencyKey: string) {
  const { data, error, response } = await client.POST("/api/v1/chat", {
    params: { header: { "Idempotency-Key": idempotencyKey } },
    body: { message, session_id },
  });
  if (error) throw new Error(error.error);
  return { receipt: data, isReplayed: response.headers.get("Idempotent-Replayed") === "true" };
}

async function poll(generation_id: string): Promise<Status> {
  for (;;) {
    const { data, error } = await client.GET("/api/v1/generate/{generation_id}/status", {
      params: { path: { generation_id }, query: { wait: 5 } },
    });
    if (error) throw new Error(error.error);
    if (data && data.state !== "processing") return data;
  }
}

async function follow(generation_id: string): Promise<string> {
  const { data, error } = await client.GET("/api/v1/generate/{generation_id}/events", {
    params: { path: { generation_id } },
    parseAs: "text",
  });
  if (error) throw new Error(error.error);
  let text = "";
  for (const line of (data ?? "").split("\n")) {
    if (!line.startsWith("data: ")) continue;
    const event: Event = JSON.parse(line.slice("data: ".length));
    if (event.type === "snapshot") text = event.text;
    else if (event.type === "reset") text = [...text].slice(0, event.keep).join("");
    else if (event.type === "delta") text += event.text;
    else if (event.type === "failed") throw new Error(event.failure.message);
  }
  return text;
}

const contents: string[] = [];
const followed: string[] = [];
let session: string | null = null;
let isReplayed = false;
for (const [number, message] of messages.entries()) {
  const first = await submit(message, session, `turn-${number}`);
  const again = await submit(message, session, `turn-${number}`);
  isReplayed = again.isReplayed && again.receipt.message_id === first.receipt.message_id;
  const status = await poll(first.receipt.message_id);
  contents.push(status.result.content);
  followed.push(await follow(first.receipt.message_id));
  session = first.receipt.session_id;
}

const chat = await client.POST("/v1/ai/chat", { body: { message: messages[0] ?? "" } });
const refused = await client.POST("/api/v1/chat", { body: { message: "hello", model: "none" } });
const { data } = chat;
const answer = typeof data === "object" && "message" in data ? data.message.content : null;
const code = refused.error?.code;
console.log(JSON.stringify({ contents, followed, isReplayed, answer, code }));
