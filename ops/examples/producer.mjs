// Enqueues a chat task and prints its id:  node producer.mjs "Say hello" [model]
//
// REDIS_URL and DELTABUS_QUEUE say where to; see ops/protocol.md for every field.
import { randomUUID } from "node:crypto";
import { createClient } from "redis";

const [prompt, model = "default"] = process.argv.slice(2);
if (!prompt) {
  console.error('usage: node producer.mjs "Say hello" [model]');
  process.exit(2);
}
const queue = process.env.DELTABUS_QUEUE ?? "chat";
const rq = process.env.RQ_KEY_PREFIX ?? "rq";
const task = randomUUID();
const now = new Date().toISOString();

const envelope = {
  v: 1,
  request: { model, messages: [{ role: "user", content: prompt }], stream: true },
  metadata: { producer: "node" },
};

const redis = await createClient({ url: process.env.REDIS_URL }).connect();
await redis
  .multi() // all or nothing: a worker never meets an id without its job
  .hSet(`${rq}:job:${task}`, {
    data: JSON.stringify(["deltabus.tasks.chat", null, [envelope], {}]),
    origin: queue,
    status: "queued",
    created_at: now,
    enqueued_at: now,
    timeout: "3600",
  })
  .sAdd(`${rq}:queues`, `${rq}:queue:${queue}`)
  .rPush(`${rq}:queue:${queue}`, task)
  .exec();
await redis.close();
console.log(task);
