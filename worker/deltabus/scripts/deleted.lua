-- End the log of a task whose job was deleted while it ran, and its worker with it.
--
-- KEYS[1]  deltabus:{task}:log     stream; the task's events
-- KEYS[2]  deltabus:{task}:cancel  string; stored intent to cancel
--
-- ARGV[1]  JSON of the terminal event
-- ARGV[2]  channel of the task's events
-- ARGV[3]  seconds the log lives after its end; "-1": for ever
--
-- Returns 1, or 0 with nothing done: there is no log, or it has an end.

local SEAL = '9007199254740991-0'

local last = redis.pcall('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if last.err or not last[1] or last[1][1] == SEAL then
  return 0
end
redis.call('XADD', KEYS[1], SEAL, 'event', ARGV[1])
if ARGV[3] == '-1' then
  redis.call('PERSIST', KEYS[1])
else
  redis.call('EXPIRE', KEYS[1], ARGV[3])
end
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[2], ARGV[1])
return 1
