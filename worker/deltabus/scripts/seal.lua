-- Write a task's terminal event, after which Redis refuses every further one, and publish it.
--
-- KEYS[1]  deltabus:{task}:log     stream; the task's events
-- KEYS[2]  deltabus:{task}:cancel  string; stored intent to cancel, settled with the task
--
-- ARGV[1]  JSON of the terminal event
-- ARGV[2]  id of the log's last event, as far as the caller knows; "0-0": there is none
-- ARGV[3]  channel of the task's events
-- ARGV[4]  a further channel for the same message, or ""
-- ARGV[5]  channel of the queue's results
-- ARGV[6]  seconds the log lives from now on; "-1": for ever
-- ARGV[7]  "1": the caller is the attempt, and nothing else must be in the log; "0": no attempt is open,
--          and whatever an earlier one has left is sealed
-- ARGV[8]  SHA-1, in hexadecimal, of the terminal event of a former round, which this one replaces; or ""
--
-- Returns 1 (it is there, now or by an earlier sending), {"fenced"}, {"sealed", the other terminal
-- event}, or, with nothing written, {"lost"} (the end of the log is missing) or {"gone"} (all of it is).

local SEAL = '9007199254740991-0'

local function parts(id)
  local attempt, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(attempt), tonumber(n)
end

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local replaces = false
if last and last[1] == SEAL then
  if last[2][2] == ARGV[1] then
    return 1
  end
  if ARGV[8] == '' or redis.sha1hex(last[2][2]) ~= ARGV[8] then
    return {'sealed', last[2][2]}
  end
  replaces = true
  last = redis.call('XREVRANGE', KEYS[1], '(' .. SEAL, '-', 'COUNT', 1)[1]
end

local mine = ARGV[7] == '1'
if last and last[1] ~= ARGV[2] then
  local attempt, n = parts(ARGV[2])
  local last_attempt, last_n = parts(last[1])
  if last_attempt > attempt or (mine and last_attempt == attempt and last_n > n) then
    return {'fenced'}
  end
end
if mine and (not last or last[1] ~= ARGV[2]) then
  return {last and 'lost' or 'gone'}
end

if replaces then
  -- What is before it stays, so that the numbers of attempts go on.
  redis.call('XDEL', KEYS[1], SEAL)
  redis.call('XSETID', KEYS[1], last and last[1] or '0-0')
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
