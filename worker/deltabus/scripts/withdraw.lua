-- Take a job from where it waits, as its task is cancelled. All keys are RQ's.
--
-- KEYS[1]  rq:job:<id>             hash; the job
-- KEYS[2]  rq:queue:<queue>        list; ids of the jobs that wait
-- KEYS[3]  rq:scheduled:<queue>    sorted set; jobs that wait for their time
-- KEYS[4]  rq:deferred:<queue>     sorted set; jobs that wait for others
-- KEYS[5]  rq:canceled:<queue>     sorted set; cancelled jobs by time
-- KEYS[6]  rq:executions:<id>      sorted set; RQ's ids of the runs that go on
--
-- ARGV[1]  id of the job
-- ARGV[2]  "1": the task's log was found sealed; "0": it was not
-- ARGV[3]  RQ's id of the run that sealed it, or ""
-- ARGV[4]  time for the job's `ended_at`, to the microsecond: tells a re-sent call
-- ARGV[5]  the same as Unix time, in seconds
-- ARGV[6]  seconds RQ keeps the job; "-1": for ever
--
-- Returns "withdrawn"; or, with nothing done, "over": the task has ended already, or "elsewhere": it waits nowhere.

local ENDED = {finished = true, failed = true, stopped = true, canceled = true}

local job = redis.call('HMGET', KEYS[1], 'status', 'ended_at', 'rate_limit_key')
local status = job[1]
if status == 'canceled' and job[2] == ARGV[4] then
  return 'withdrawn' -- the reply to an earlier sending was lost
end

-- A job that was requeued after its end has a seal, too: that of its former round.
local function is_over()
  if ARGV[2] ~= '1' then
    return ENDED[status] and redis.call('ZCARD', KEYS[6]) == 0
  end
  if not status or ENDED[status] then
    return true
  end
  if status ~= 'started' then
    return redis.call('HEXISTS', KEYS[1], 'deltabus_open') == 1 -- whoever sealed it has yet to book it
  end
  return redis.call('ZSCORE', KEYS[6], ARGV[3])
end

if is_over() then
  return 'over'
end

-- In its queue, it has a place under RQ's rate limit, for which others wait: whoever takes it ends it, and lets one of
-- them in. RQ's maintenance would do that only every ten minutes.
if (job[3] or '') ~= '' and redis.call('LPOS', KEYS[2], ARGV[1]) then
  return 'elsewhere'
end

local found = redis.call('LREM', KEYS[2], 0, ARGV[1])
  + redis.call('ZREM', KEYS[3], ARGV[1])
  + redis.call('ZREM', KEYS[4], ARGV[1])
if found == 0 then
  return 'elsewhere'
end

redis.call('HSET', KEYS[1], 'status', 'canceled', 'ended_at', ARGV[4])
-- It may have run before, and may be requeued: whoever runs it then begins anew.
redis.call('HDEL', KEYS[1], 'deltabus_open', 'deltabus_lost', 'deltabus_failures')
if ARGV[6] ~= '-1' then
  redis.call('EXPIRE', KEYS[1], ARGV[6])
end
redis.call('ZADD', KEYS[5], ARGV[5], ARGV[1])
return 'withdrawn'
