-- Write a task's terminal event, after which Redis refuses every further one, and publish it.
--
-- KEYS[1]  deltabus:{task}:log     stream; the task's events
-- KEYS[2]  deltabus:{task}:cancel  string; stored intent to cancel, settled with the task
--
-- ARGV[1]  JSON of the terminal event
-- ARGV[2]  id of the attempt's last event; "" where no attempt is open: then any log may be sealed
-- ARGV[3]  channel of the task's events
-- ARGV[4]  a further channel for the same message, or ""
-- ARGV[5]  channel of the queue's results
-- ARGV[6]  seconds the log lives from now on; "-1": for ever
--
-- Returns 1 (it is there, now or by an earlier sending), {"fenced"}, {"sealed", the other terminal
-- event}, or, with nothing written, {"lost"} (the end of the log is missing) or {"gone"} (all of it is).

local SEAL = '9007199254740991-0'

local function parts(id)
  local attempt, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(attempt), tonumber(n)
end

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and last[1] == SEAL then
  if last[2][2] == ARGV[1] then
    return 1
  end
  return {'sealed', last[2][2]}
end
if ARGV[2] ~= '' then
  if not last then
    return {'gone'}
  end
  if last[1] ~= ARGV[2] then
    local attempt, n = parts(ARGV[2])
    local last_attempt, last_n = parts(last[1])
    if last_attempt > attempt or (last_attempt == attempt and last_n > n) then
      return {'fenced'}
    end
    return {'lost'}
  end
end

redis.call('XADD', KEYS[1], SEAL, 'event', ARGV[1])
if ARGV[6] == '-1' then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('EXPIRE', KEYS[1], ARGV[6])
end
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[3], ARGV[1])
if ARGV[4] ~= '' then
  redis.call('PUBLISH', ARGV[4], ARGV[1])
end
redis.call('PUBLISH', ARGV[5], ARGV[1])
return 1
