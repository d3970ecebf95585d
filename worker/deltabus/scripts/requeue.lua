-- Put a failed job back on its queue: a new round of its task begins.
--
-- KEYS[1]  rq:failed:<queue>       sorted set; ids of failed jobs
-- KEYS[2]  rq:job:<id>             hash; the job
-- KEYS[3]  rq:queue:<queue>        list; ids of the jobs that wait
-- KEYS[4]  rq:queues               set; keys of all queues
-- KEYS[5]  deltabus:{task}:log     stream; the task's events
-- KEYS[6]  deltabus:{task}:cancel  string; an intent that is left was meant for the round that has failed
--
-- ARGV[1]  id of the job
-- ARGV[2]  the time, as RQ writes it into `enqueued_at`
-- ARGV[3]  JSON of a `retrying` event up to where its id goes
-- ARGV[4]  the rest of it
-- ARGV[5]  channel of the task's events
-- ARGV[6]  a further channel for the same message, or ""
-- ARGV[7]  seconds the log lives without a renewal
--
-- A log that was sealed is opened again, so that whoever follows the task from now on waits for its new round: what
-- has been streamed is void, and numbers go on, so that a subscriber's cursor keeps its meaning.
--
-- Returns "requeued", or, with nothing on the queue: "not failed", "missing" (there is no job hash), "unreadable" (its key
-- is no hash) or "rate limited" (all is done but that RQ must ask the limiter first).

local SEAL = '9007199254740991-0'

if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 'not failed'
end
local kind = redis.call('TYPE', KEYS[2]).ok
if kind ~= 'hash' then
  return kind == 'none' and 'missing' or 'unreadable'
end
local job = redis.call('HMGET', KEYS[2], 'status', 'ttl', 'rate_limit_key')
if job[1] and job[1] ~= '' and job[1] ~= 'failed' then
  return 'not failed'
end

local limited = job[3] and job[3] ~= ''
if not limited then
  -- First what can fail, should the queue's key be of another type.
  redis.call('RPUSH', KEYS[3], ARGV[1])
  redis.call('SADD', KEYS[4], KEYS[3])
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HSET', KEYS[2], 'status', 'queued', 'enqueued_at', ARGV[2],
    'started_at', '', 'ended_at', '', 'worker_name', '')
  local ttl = tonumber(job[2] or '')
  if ttl and ttl > 0 then
    redis.call('EXPIRE', KEYS[2], math.floor(ttl))
  else
    redis.call('PERSIST', KEYS[2])
  end
end
redis.call('HDEL', KEYS[2], 'deltabus_open', 'deltabus_lost', 'deltabus_failures', 'deltabus_failure', 'exc_info')
redis.call('DEL', KEYS[6])

local seal = redis.pcall('XREVRANGE', KEYS[5], '+', '-', 'COUNT', 1)
if not seal.err and seal[1] and seal[1][1] == SEAL then
  redis.call('XDEL', KEYS[5], SEAL)
  local last = redis.call('XREVRANGE', KEYS[5], '+', '-', 'COUNT', 1)[1]
  if last then
    redis.call('XSETID', KEYS[5], last[1])
    redis.call('EXPIRE', KEYS[5], ARGV[7])
  else
    redis.call('DEL', KEYS[5])
  end
  -- An attempt that has ended as `retrying` is over: nothing of it may follow.
  if last and string.find(last[2][2], '{"type":"retrying"', 1, true) ~= 1 then
    local attempt, n = string.match(last[1], '^(%d+)-(%d+)$')
    local id = string.format('%d-%d', attempt, n + 1)
    local event = ARGV[3] .. id .. ARGV[4]
    redis.call('XADD', KEYS[5], id, 'event', event)
    redis.call('PUBLISH', ARGV[5], event)
    if ARGV[6] ~= '' then
      redis.call('PUBLISH', ARGV[6], event)
    end
  end
end
return limited and 'rate limited' or 'requeued'
