-- Append one event of a running attempt, exactly after the one before it, and publish it.
--
-- KEYS[1]  deltabus:{task}:log     stream; the task's events
-- KEYS[2]  deltabus:{task}:cancel  string; stored intent to cancel, its value is the reason
--
-- ARGV[1]  id of the event, "<attempt>-<n>"
-- ARGV[2]  id of the event before it; "" to mend a log that has lost entries: whatever is left is older
-- ARGV[3]  JSON of the event
-- ARGV[4]  channel of the task's events
-- ARGV[5]  a further channel for the same message, or ""
-- ARGV[6]  "1": the event is a snapshot, what is before it goes; "0": it is not
-- ARGV[7]  seconds the log lives without a renewal; used when mending, where the log may be new
--
-- Returns 1 (it is there, now or by an earlier sending), {"cancel", reason} (the same, and somebody
-- wants the task cancelled), {"fenced"}, {"sealed", terminal event}, or, with nothing written,
-- {"lost"} (the end of the log is missing) or {"gone"} (all of it is).

local SEAL = '9007199254740991-0'

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local last_id = last and last[1]
local resent = last_id == ARGV[1] and last[2][2] == ARGV[3]

if last_id ~= ARGV[2] and not resent then
  if last_id == SEAL then
    return {'sealed', last[2][2]}
  end
  if last then
    local attempt, n = string.match(ARGV[1], '^(%d+)-(%d+)$')
    local last_attempt, last_n = string.match(last_id, '^(%d+)-(%d+)$')
    attempt, n, last_attempt, last_n = tonumber(attempt), tonumber(n), tonumber(last_attempt), tonumber(last_n)
    -- The same attempt is further than its only writer is: the log was lost, and begun anew by somebody else.
    if last_attempt > attempt or (last_attempt == attempt and last_n >= n) then
      return {'fenced'}
    end
  end
  if ARGV[2] ~= '' then
    return {last and 'lost' or 'gone'}
  end
end

if not resent then
  redis.call('XADD', KEYS[1], ARGV[1], 'event', ARGV[3])
  if ARGV[6] == '1' then
    redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[1])
  end
  if ARGV[2] == '' then
    redis.call('EXPIRE', KEYS[1], ARGV[7])
  end
  redis.call('PUBLISH', ARGV[4], ARGV[3])
  if ARGV[5] ~= '' then
    redis.call('PUBLISH', ARGV[5], ARGV[3])
  end
end

local reason = redis.call('GET', KEYS[2])
if reason then
  return {'cancel', reason}
end
return 1
