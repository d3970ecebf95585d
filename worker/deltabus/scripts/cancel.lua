-- Leave word that a task is to be cancelled, for whoever runs it.
--
-- KEYS[1]  deltabus:{task}:log     stream; the task's events
-- KEYS[2]  deltabus:{task}:cancel  string; stored intent to cancel, its value is the reason
--
-- ARGV[1]  id of the task
-- ARGV[2]  reason, perhaps empty
-- ARGV[3]  seconds that the intent is remembered
-- ARGV[4]  channel on which it is announced
-- ARGV[5]  SHA-1, in hexadecimal, of the terminal event of a former round, after which the task runs again; or ""
--
-- Returns 1, or 0 with nothing written: the task has ended.

local SEAL = '9007199254740991-0'

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and last[1] == SEAL and redis.sha1hex(last[2][2]) ~= ARGV[5] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[1])
return 1
