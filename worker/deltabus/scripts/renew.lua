-- Keep a running attempt's log alive, and tell its writer what a silent stream would not notice.
--
-- KEYS[1]  deltabus:{task}:log     stream; the task's events
-- KEYS[2]  deltabus:{task}:cancel  string; stored intent to cancel, its value is the reason
--
-- ARGV[1]  id of the attempt's last event that is known to be in the log
-- ARGV[2]  seconds the log lives without a renewal
--
-- Returns 1, {"cancel", reason}, {"fenced"}, {"sealed", terminal event}, {"lost"} (the end of the log
-- is missing) or {"gone"} (all of it is).

local SEAL = '9007199254740991-0'

local function parts(id)
  local attempt, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(attempt), tonumber(n)
end

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last then
  return {'gone'}
end
if last[1] == SEAL then
  return {'sealed', last[2][2]}
end
local attempt, n = parts(ARGV[1])
local last_attempt, last_n = parts(last[1])
if last_attempt > attempt then
  return {'fenced'}
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
if last_attempt < attempt or last_n < n then
  return {'lost'}
end
local reason = redis.call('GET', KEYS[2])
if reason then
  return {'cancel', reason}
end
return 1
