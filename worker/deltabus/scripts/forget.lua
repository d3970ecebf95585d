-- Delete what is left of a task whose job was deleted.
--
-- KEYS[1]  deltabus:{task}:log     stream; the task's events
-- KEYS[2]  deltabus:{task}:cancel  string; stored intent to cancel
--
-- A log that has no end may be that of a new task of this id, and is left: if it is not, the reconciler ends it, and it
-- expires.
--
-- Returns 1, or 0 with nothing deleted.

local SEAL = '9007199254740991-0'

local last = redis.pcall('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if not last.err and (not last[1] or last[1][1] ~= SEAL) then
  return 0
end
return redis.call('UNLINK', KEYS[1], KEYS[2]) > 0 and 1 or 0
