-- Enqueue scheduled jobs whose time has come, as RQ's scheduler does, and jobs for which all others that they depend on
-- have ended: RQ leaves such a one in its registry where two processes, or threads, are at it at once, until its
-- maintenance comes by.
--
-- KEYS[1]  rq:scheduled:<queue>  sorted set; job ids, scored by the Unix time at which they are due
-- KEYS[2]  rq:queue:<queue>      list
-- KEYS[3]  rq:ready:<queue>      sorted set; job ids whose dependencies are met
-- ARGV[1]  prefix of job hashes (rq:job:)
-- ARGV[2]  the time, as RQ writes it into `enqueued_at`
-- ARGV[3]  how many to enqueue at the most
--
-- Jobs with a rate limit are left to RQ, which must ask the limiter first. What is no hash goes on the queue as well: who
-- takes it from there says so, and it is in nobody's way here.
--
-- Returns {how many jobs were enqueued, seconds until the next is due ("": there is none), how many waited in the queue
-- before}.

local released = 0
local waiting = redis.pcall('LLEN', KEYS[2])
waiting = type(waiting) == 'number' and waiting or 0

local function release(registry, id, wanted)
  local key = ARGV[1] .. id
  local job = redis.pcall('HMGET', key, 'status', 'enqueue_at_front', 'rate_limit_key')
  if not job.err and (not job[1] or wanted and job[1] ~= wanted) then
    redis.call('ZREM', registry, id)
  elseif job.err or not job[3] then
    -- First what can fail, should the queue's key be of another type.
    redis.call(job[2] == '1' and 'LPUSH' or 'RPUSH', KEYS[2], id)
    redis.call('ZREM', registry, id)
    if not job.err then
      redis.call('HSET', key, 'status', 'queued', 'enqueued_at', ARGV[2])
    end
    released = released + 1
  end
end

local time = redis.call('TIME')
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', time[1], 'LIMIT', 0, ARGV[3])) do
  release(KEYS[1], id)
end
for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, ARGV[3] - 1)) do
  release(KEYS[3], id, 'ready_to_enqueue')
end
local wait = ''
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if first[1] then
  wait = string.format('%.6f', tonumber(first[2]) - tonumber(time[1]) - tonumber(time[2]) / 1000000)
end
return {released, wait, waiting}
