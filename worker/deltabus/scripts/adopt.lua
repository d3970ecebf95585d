-- Put a job that belongs to nobody to the front of its queue, if that is what it still is.
--
-- KEYS[1]  rq:job:<id>                    hash; the job
-- KEYS[2]  rq:queue:<queue>               list; ids of the jobs that wait
-- KEYS[3]  rq:queue:<queue>:intermediate  list; taken, not yet started
-- KEYS[4]  rq:executions:<id>             sorted set; ids of the executions that the job is said to have
-- KEYS[5]  rq:wip:<queue>                 sorted set of <id>:<execution>
-- KEYS[6]  rq:workers                     set; RQ's list of worker keys
-- KEYS[7]  rq:deltabus:workers            sorted set; worker names by the time at which their leases run out
--
-- ARGV[1]  the job's id
-- ARGV[2]  prefix of RQ's keys; of an execution, the hash is <rq>:execution:<id>:<execution>
-- ARGV[3]  status that the job is believed to have: `queued` or `started`
--
-- A job that had started has lost its worker: its `deltabus_lost` counts that.
--
-- Returns 1 when it was moved, 0 when it is somebody's after all.

if redis.call('HGET', KEYS[1], 'status') ~= ARGV[3] then
  return 0
end
if redis.call('LPOS', KEYS[2], ARGV[1]) or redis.call('LPOS', KEYS[3], ARGV[1]) then
  return 0
end

local executions = redis.pcall('ZRANGE', KEYS[4], 0, -1)
if executions.err then
  executions = {} -- of the wrong type: it says of nobody that they run the job
end
for _, execution in ipairs(executions) do
  local worker = redis.call('HGET', ARGV[2] .. ':execution:' .. ARGV[1] .. ':' .. execution, 'worker_name')
  if worker and (redis.call('ZSCORE', KEYS[7], worker)
      or redis.call('SISMEMBER', KEYS[6], ARGV[2] .. ':worker:' .. worker) == 1) then
    return 0
  end
end
for _, execution in ipairs(executions) do
  redis.call('DEL', ARGV[2] .. ':execution:' .. ARGV[1] .. ':' .. execution)
  redis.pcall('ZREM', KEYS[5], ARGV[1] .. ':' .. execution)
end
redis.call('DEL', KEYS[4])

if ARGV[3] == 'started' then
  redis.call('HINCRBY', KEYS[1], 'deltabus_lost', 1)
  redis.call('HSET', KEYS[1], 'status', 'queued', 'started_at', '', 'worker_name', '')
end
redis.call('LPUSH', KEYS[2], ARGV[1])
return 1
