-- Enqueue scheduled jobs whose time has come, as RQ's scheduler does.
--
-- KEYS[1]  rq:scheduled:<queue>  sorted set; job ids, scored by the Unix time at which they are due
-- KEYS[2]  rq:queue:<queue>      list
-- ARGV[1]  prefix of job hashes (rq:job:)
-- ARGV[2]  the time, as RQ writes it into `enqueued_at`
-- ARGV[3]  how many to enqueue at the most
--
-- Jobs with a rate limit are left to RQ, which must ask the limiter first.
--
-- Returns how many jobs were enqueued.

local released = 0
local now = redis.call('TIME')[1]
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[3])) do
  local key = ARGV[1] .. id
  local job = redis.call('HMGET', key, 'status', 'enqueue_at_front', 'rate_limit_key')
  if not job[1] then
    redis.call('ZREM', KEYS[1], id)
  elseif not job[3] then
    redis.call('ZREM', KEYS[1], id)
    redis.call('HSET', key, 'status', 'queued', 'enqueued_at', ARGV[2])
    redis.call(job[2] == '1' and 'LPUSH' or 'RPUSH', KEYS[2], id)
    released = released + 1
  end
end
return released
