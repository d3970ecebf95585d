-- Leave a round of a task that has failed behind: a cancel that is left was meant for it.
--
-- KEYS[1]  deltabus:{task}:log     stream; the task's events
-- KEYS[2]  deltabus:{task}:cancel  string; stored intent to cancel
--
-- Returns the SHA-1, in hexadecimal, of the terminal event, or "": there is none.

local SEAL = '9007199254740991-0'

redis.call('DEL', KEYS[2])
local last = redis.pcall('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if last.err or not last[1] or last[1][1] ~= SEAL then
  return ''
end
return redis.sha1hex(last[1][2][2])
