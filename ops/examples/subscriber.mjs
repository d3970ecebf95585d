// Follows a task to its end, one event a line:  node subscriber.mjs <task id> [id of the last event seen]
//
// Early, late or again: every event once, in order. Exits with 0 if the task completed, else with 1.
import { createClient } from "redis";

const SEAL = "9007199254740991-0"; // id of the terminal event
const OVER = ["finished", "failed", "stopped", "canceled"]; // RQ's words for a job that will not run
const [task, after = "0-0"] = process.argv.slice(2);
if (!task) {
  console.error("usage: node subscriber.mjs <task id> [id of the last event seen]");
  process.exit(2);
}
const log = `deltabus:{${task}}:log`;
const job = `${process.env.RQ_KEY_PREFIX ?? "rq"}:job:${task}`;
const redis = createClient({ url: process.env.REDIS_URL });
const live = redis.duplicate();
for (const client of [redis, live]) client.on("error", (error) => console.error(`redis: ${error.message}`));

let cursor = after;
let settle;
const outcome = new Promise((resolve) => (settle = resolve));
const parts = (id) => id.split("-").map(Number);
const isAfter = ([attempt, n], [a, b]) => attempt > a || (attempt === a && n > b);

function take(message) {
  const { id, type } = JSON.parse(message);
  if (!isAfter(parts(id), parts(cursor))) return; // seen already: log and channel overlap
  cursor = id;
  process.stdout.write(`${message}\n`);
  if (id === SEAL) settle(type);
}

const page = async () => (await redis.xRange(log, `(${cursor}`, "+")).forEach((entry) => take(entry.message.event));
let reading = Promise.resolve();
function readLog(message) {
  reading = reading.then(page).then(() => message && take(message)); // no message before what the log holds
  return (reading = reading.catch((error) => console.error(`redis: ${error.message}`)));
}

function onMessage(message) {
  const [attempt, n] = parts(cursor);
  if (JSON.parse(message).id === `${attempt}-${n + 1}`) take(message);
  else readLog(message); // events before it may have been missed
}

await Promise.all([redis.connect(), live.connect()]);
await live.subscribe(`deltabus:{${task}}:events`, onMessage); // subscribe, then read: nothing falls between
live.on("ready", () => readLog()); // connected again: messages may have been missed
const quiet = setInterval(() => readLog(), 15_000); // a silent connection may be a dead one
await readLog();
const status = await redis.hGet(job, "status"); // before asking for the log: the task may end in between
if (!(await redis.exists([log, job]))) settle("unknown task");
else if (OVER.includes(status) && !(await redis.exists(log))) settle(`${status}, and its log has expired`);

const end = await outcome;
clearInterval(quiet);
await Promise.all([redis.close(), live.close()]);
if (end !== "completed") console.error(`${task}: ${end}`);
process.exitCode = end === "completed" ? 0 : 1;
