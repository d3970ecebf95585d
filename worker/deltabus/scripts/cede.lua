-- End a run that a newer attempt has fenced off: the job is that one's now, unless nobody is left who runs it.
--
-- KEYS[1]  rq:execution:<job>:<execution>  hash
-- KEYS[2]  rq:job:<job>                    hash; its `deltabus_lost` counts how often the job lost its worker
-- KEYS[3]  rq:executions:<job>             sorted set  executions
-- KEYS[4]  rq:wip:<queue>                  sorted set  <job>:<execution>
-- KEYS[5]  rq:worker:<name>:executions     set         <job>:<execution>
-- KEYS[6]  rq:queue:<queue>                list
--
-- ARGV[1]  id of the job
-- ARGV[2]  id of the execution
-- ARGV[3]  what the keys of the job's executions begin with
--
-- A job may have two runs where its id is in queues twice, or where somebody has enqueued it again while it ran. Were the
-- older one given back, it would fence off the newer one in turn, and so on. After a failover, Redis may know the older
-- one alone.
--
-- Returns 1, or 0 with nothing done: it does not run any more.

if redis.call('DEL', KEYS[1]) == 0 then
  return 0
end
local member = ARGV[1] .. ':' .. ARGV[2]
redis.pcall('ZREM', KEYS[3], ARGV[2])
redis.pcall('ZREM', KEYS[4], member)
redis.pcall('SREM', KEYS[5], member)
if redis.pcall('HGET', KEYS[2], 'status') ~= 'started' then
  return 1
end
local others = redis.pcall('ZRANGE', KEYS[3], 0, -1)
for _, execution in ipairs(others.err and {} or others) do
  if redis.call('EXISTS', ARGV[3] .. execution) == 1 then
    return 1
  end
end
redis.call('HINCRBY', KEYS[2], 'deltabus_lost', 1)
redis.call('HSET', KEYS[2], 'status', 'queued', 'started_at', '', 'worker_name', '')
redis.call('LPUSH', KEYS[6], ARGV[1])
return 1
