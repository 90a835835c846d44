// A customer's program in JavaScript: one conversation, turn by turn, polls for each answer.
import { setTimeout as pause } from "node:timers/promises";

const POLL_MS = 50;
const [base, key, ...messages] = process.argv.slice(2);
const headers = { "X-API-Key": key };

async function takeTurn(message, session) {
  const posted = await fetch(`${base}/v1/chat`, {
    method: "POST",
    headers: { ...headers, "Content-Type": "application/json" },
    body: JSON.stringify({ message, session_id: session }),
  });
  const receipt = await posted.json();
  if (!receipt.success) throw new Error(receipt.error);

  const polled = base + receipt.poll_url;
  for (;;) {
    await pause(POLL_MS);
    const status = await (await fetch(polled, { headers })).json();
    if (status.state === "processing") continue;
    const { state, result } = status;
    const outcome = { state, content: result.content, session: receipt.session_id, polled };
    console.log(JSON.stringify(outcome));
    return receipt.session_id;
  }
}

let session;
for (const message of messages) session = await takeTurn(message, session);
