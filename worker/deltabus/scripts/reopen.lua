-- Open the log of a task again whose job was requeued, so that whoever follows it from now on waits for its new round.
--
-- KEYS[1]  deltabus:{task}:log     stream; the task's events
--
-- ARGV[1]  SHA-1, in hexadecimal, of the terminal event of the round that is over
-- ARGV[2]  JSON of a `retrying` event up to where its id goes
-- ARGV[3]  the rest of it
-- ARGV[4]  channel of the task's events
-- ARGV[5]  a further channel for the same message, or ""
-- ARGV[6]  seconds the log lives without a renewal
--
-- What has been streamed is void, and numbers go on, so that a subscriber's cursor keeps its meaning. Where the new round
-- has begun, nothing is done: whoever began it has done the same.
--
-- Returns 1 when it was opened, else 0.

local SEAL = '9007199254740991-0'

local seal = redis.pcall('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
if seal.err or not seal[1] or seal[1][1] ~= SEAL or redis.sha1hex(seal[1][2][2]) ~= ARGV[1] then
  return 0
end
redis.call('XDEL', KEYS[1], SEAL)
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last then
  redis.call('XSETID', KEYS[1], last[1])
  redis.call('EXPIRE', KEYS[1], ARGV[6])
else
  redis.call('DEL', KEYS[1])
end
-- An attempt that has ended as `retrying` is over: nothing of it may follow.
if last and string.find(last[2][2], '{"type":"retrying"', 1, true) ~= 1 then
  local attempt, n = string.match(last[1], '^(%d+)-(%d+)$')
  local id = string.format('%d-%d', attempt, n + 1)
  local event = ARGV[2] .. id .. ARGV[3]
  redis.call('XADD', KEYS[1], id, 'event', event)
  redis.call('PUBLISH', ARGV[4], event)
  if ARGV[5] ~= '' then
    redis.call('PUBLISH', ARGV[5], event)
  end
end
return 1
