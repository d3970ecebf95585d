-- Ask for a task to be cancelled; settle it at once where it only waits.
--
-- KEYS[1]  deltabus:{task}:log     stream; the task's events
-- KEYS[2]  deltabus:{task}:cancel  string; stored intent to cancel, its value is the reason
-- KEYS[3]  rq:job:<id>             hash; the job
-- KEYS[4]  rq:queue:<queue>        list; ids of the jobs that wait
-- KEYS[5]  rq:scheduled:<queue>    sorted set; jobs that wait for their time
-- KEYS[6]  rq:deferred:<queue>     sorted set; jobs that wait for others
-- KEYS[7]  rq:canceled:<queue>     sorted set; cancelled jobs by time
-- KEYS[8]  rq:executions:<id>      sorted set; RQ's ids of the runs that go on
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

local ENDED = {finished = true, failed = true, stopped = true, canceled = true}

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local seal = last and last[1] == SEAL and last[2][2]
if seal == ARGV[5] then
  return 'settled' -- the reply to an earlier sending was lost: this very event is there already
end

local status = redis.call('HGET', KEYS[3], 'status')
local runs = redis.call('ZRANGE', KEYS[8], 0, -1)

-- A job that was requeued after its end has a seal, too: that of its former round.
local function is_over()
  if not seal then
    return ENDED[status] and #runs == 0
  end
  if not status or ENDED[status] then
    return true
  end
  if status ~= 'started' then
    return redis.call('HEXISTS', KEYS[3], 'deltabus_open') == 1 -- whoever sealed it has yet to book it
  end
  for _, run in ipairs(runs) do
    local signature = '"execution":"' .. run .. '"}'
    if string.sub(seal, -#signature) == signature then
      return true
    end
  end
  return false
end

if is_over() then
  return 'over'
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
-- It may have run before, and may be requeued: whoever runs it then begins anew.
redis.call('HDEL', KEYS[3], 'deltabus_open', 'deltabus_lost', 'deltabus_failures')
if ARGV[12] ~= '-1' then
  redis.call('EXPIRE', KEYS[3], ARGV[12])
end
redis.call('ZADD', KEYS[7], ARGV[11], ARGV[1])
redis.call('DEL', KEYS[2])
if seal then
  -- What is before it stays, so that the numbers of attempts go on.
  redis.call('XDEL', KEYS[1], SEAL)
  local former = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  redis.call('XSETID', KEYS[1], former and former[1] or '0-0')
end
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
