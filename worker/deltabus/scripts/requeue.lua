-- Put a failed job back on its queue. All keys are RQ's.
--
-- KEYS[1]  rq:failed:<queue>       sorted set; ids of failed jobs
-- KEYS[2]  rq:job:<id>             hash; the job
-- KEYS[3]  rq:queue:<queue>        list; ids of the jobs that wait
-- KEYS[4]  rq:queues               set; keys of all queues
--
-- ARGV[1]  id of the job
-- ARGV[2]  the time, as RQ writes it into `enqueued_at`
--
-- Returns "requeued", or, with nothing on the queue: "not failed", "missing" (there is no job hash), "unreadable" (its key
-- is no hash) or "rate limited" (all is done but that RQ must ask the limiter first).

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
return limited and 'rate limited' or 'requeued'
