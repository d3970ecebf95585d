-- Begin the next attempt of a task: find its number and write `started` in one step.
--
-- KEYS[1]  deltabus:{task}:log     stream; the task's events
-- KEYS[2]  deltabus:{task}:cancel  string; stored intent to cancel, its value is the reason
--
-- ARGV[1]  JSON of the `started` event up to where its id goes
-- ARGV[2]  the rest of it; time and worker in there make it one of a kind
-- ARGV[3]  channel of the task's events
-- ARGV[4]  a further channel for the same message, or ""
-- ARGV[5]  seconds the log lives without a renewal
-- ARGV[6]  "1": a settled task runs again, its old log is dropped; "0": what is settled stays settled
--
-- Returns {"ok", attempt}, {"sealed", terminal event}, {"cancel", reason}, or {"fenced"}: this call comes
-- a second time, and a newer attempt has begun since the first.

local SEAL = '9007199254740991-0'

local function attempt_of(entry)
  return entry and tonumber(string.match(entry[1], '^%d+')) or 0
end

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local seal = nil
if last and last[1] == SEAL then
  seal = last
  last = redis.call('XREVRANGE', KEYS[1], '(' .. SEAL, '-', 'COUNT', 1)[1]
end

-- The reply to an earlier sending was lost, or that one comes late: this very event is there already.
local newest = attempt_of(last)
local again = nil
for attempt = newest, 1, -1 do
  local id = string.format('%d-0', attempt)
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  if entry and entry[2][2] == ARGV[1] .. id .. ARGV[2] then
    again = attempt
    break
  end
end

if seal and (again or ARGV[6] ~= '1') then
  return {'sealed', seal[2][2]}
end
if again then
  return again == newest and {'ok', again} or {'fenced'}
end
local reason = redis.call('GET', KEYS[2])
if reason then
  return {'cancel', reason}
end
if seal then
  redis.call('DEL', KEYS[1])
end

-- Numbers go on, so that a subscriber's cursor keeps its meaning.
local id = string.format('%d-0', newest + 1)
local event = ARGV[1] .. id .. ARGV[2]
redis.call('XADD', KEYS[1], id, 'event', event)
redis.call('EXPIRE', KEYS[1], ARGV[5])
redis.call('PUBLISH', ARGV[3], event)
if ARGV[4] ~= '' then
  redis.call('PUBLISH', ARGV[4], event)
end
return {'ok', newest + 1}
