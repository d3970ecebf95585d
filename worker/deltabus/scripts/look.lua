-- How far a task's log is, without its events.
--
-- KEYS[1]  deltabus:{task}:log  stream; the task's events
--
-- Returns "none" (there is no log), "open" or "sealed".

local SEAL = '9007199254740991-0'

local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'stream' then
  return kind == 'none' and 'none' or 'sealed' -- what is no log cannot be settled
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not last then
  return 'none'
end
return last[1] == SEAL and 'sealed' or 'open'
