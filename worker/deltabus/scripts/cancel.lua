-- Ask for a task to be cancelled; settle it at once where it only waits.
--
-- KEYS[1]  deltabus:{task}:log     stream; the task's events
-- KEYS[2]  deltabus:{task}:cancel  string; stored intent to cancel, its value is the reason
-- KEYS[3]  rq:job:<id>             hash; the job
-- KEYS[4]  rq:queue:<queue>        list; ids of the jobs that wait
-- KEYS[5]  rq:scheduled:<queue>    sorted set; jobs that wait for their time
-- KEYS[6]  rq:deferred:<queue>     sorted set; jobs that wait for others
-- KEYS[7]  rq:canceled:<queue>     sorted set; cancelled jobs by time
--
-- ARGV[1]   id of the task
-- ARGV[2]   reason, perhaps empty
-- ARGV[3]   seconds that the intent is remembered
-- ARGV[4]   channel on which it is announced
-- ARGV[5]   JSON of the terminal event, for a task that only waits
-- ARGV[6]   channel of the task's events
-- ARGV[7]   a further channel for the same message, or ""
-- ARGV[8]   channel of the queue's results
-- ARGV[9]   seconds the log lives after its end; "-1": for ever
-- ARGV[10]  time for the job's `ended_at`
-- ARGV[11]  the same as Unix time, in seconds
-- ARGV[12]  seconds RQ keeps the job; "-1": for ever
--
-- Returns "settled", "asked", or "over": it has ended already.

local SEAL = '9007199254740991-0'

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and last[1] == SEAL then
  -- The reply to an earlier sending was lost: this very event is there already.
  return last[2][2] == ARGV[5] and 'settled' or 'over'
end

local waits = redis.call('LREM', KEYS[4], 0, ARGV[1])
  + redis.call('ZREM', KEYS[5], ARGV[1])
  + redis.call('ZREM', KEYS[6], ARGV[1])
if waits == 0 then
  redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
  redis.call('PUBLISH', ARGV[4], ARGV[1])
  return 'asked'
end

redis.call('HSET', KEYS[3], 'status', 'canceled', 'ended_at', ARGV[10])
if ARGV[12] ~= '-1' then
  redis.call('EXPIRE', KEYS[3], ARGV[12])
end
redis.call('ZADD', KEYS[7], ARGV[11], ARGV[1])
redis.call('DEL', KEYS[2])
redis.call('XADD', KEYS[1], SEAL, 'event', ARGV[5])
if ARGV[9] == '-1' then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('EXPIRE', KEYS[1], ARGV[9])
end
redis.call('PUBLISH', ARGV[6], ARGV[5])
if ARGV[7] ~= '' then
  redis.call('PUBLISH', ARGV[7], ARGV[5])
end
redis.call('PUBLISH', ARGV[8], ARGV[5])
return 'settled'
