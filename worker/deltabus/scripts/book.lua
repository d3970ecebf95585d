-- Carry out commands that RQ's own code composed, as one step, if the job is still in the expected state.
--
-- KEYS[1]    guard `listed`:   rq:queue:<name>:intermediate, which must hold the id ARGV[2]; it is removed
--            guard `running`:  rq:execution:<job>:<execution>, which must exist
-- KEYS[2]    `listed`:   deltabus:workers, sorted set; worker names by the time at which their leases run out
-- ARGV[1]    the guard
-- ARGV[2]    `listed`:   the job's id
--            `running`:  key of the job's dependents, which must not exist; empty where they do not matter
-- ARGV[3]    `listed`:   key of the job's hash, whose status must not be `canceled`
-- ARGV[4]    `listed`:   key of the execution that the commands create: where it exists, this is a re-send
-- ARGV[5]    `listed`:   name of the worker
-- ARGV[6]    `listed`:   seconds that a lease lasts
-- ARGV[7..]  commands, each as its number of words and the words
--
-- A worker that was away for so long that others have buried it may start a job before it renews its lease. Should
-- it die in between, nobody would know of it: so a start gives a lease to a worker that has none.
--
-- Returns 1 when done. 0: the job is not in that state any more. 2: `listed`, the job was cancelled;
-- `running`, there are dependents. With 0 and 2, no command was carried out. Where a command fails, the rest are left
-- out, and the error is returned; a `listed` id is back in its list then. A key of the wrong type keeps a job neither
-- from its start, which counts as done, nor from its end, where the rest are carried out before the error is returned.

if ARGV[1] == 'listed' then
  if redis.call('LREM', KEYS[1], 1, ARGV[2]) == 0 then
    return redis.call('EXISTS', ARGV[4])
  end
  if redis.call('HGET', ARGV[3], 'status') == 'canceled' then
    return 2
  end
  local time = redis.call('TIME')
  local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
  redis.call('ZADD', KEYS[2], 'NX', now + tonumber(ARGV[6]), ARGV[5])
else
  if redis.call('EXISTS', KEYS[1]) == 0 then
    return 0
  end
  if ARGV[2] ~= '' and redis.call('EXISTS', ARGV[2]) == 1 then
    return 2
  end
end
local wrong
local i = 7
while i <= #ARGV do
  local words = tonumber(ARGV[i])
  local reply = redis.pcall(unpack(ARGV, i + 1, i + words))
  if type(reply) == 'table' and reply.err then
    if not string.find(reply.err, 'WRONGTYPE', 1, true) then
      if ARGV[1] == 'listed' then
        redis.call('RPUSH', KEYS[1], ARGV[2])
      end
      return reply
    end
    wrong = ARGV[1] == 'running' and (wrong or reply) or nil
  end
  i = i + words + 1
end
return wrong or 1
