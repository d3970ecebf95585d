-- Record that a job has ended, as RQ's own worker does it (`rq.job.Job._handle_success`, `rq.worker.BaseWorker`).
--
-- KEYS[1]   rq:execution:<job>:<execution>  hash
-- KEYS[2]   rq:job:<job>                    hash
-- KEYS[3]   rq:job:<job>:dependents         set         jobs that wait for this one: RQ's own code must end it then
-- KEYS[4]   rq:job:<job>:dependencies       set
-- KEYS[5]   rq:results:<job>                stream
-- KEYS[6]   rq:finished:<queue>             sorted set  or rq:failed:<queue>; job ids, by the time at which they go
-- KEYS[7]   rq:wip:<queue>                  sorted set  <job>:<execution>
-- KEYS[8]   rq:executions:<job>             sorted set  executions
-- KEYS[9]   rq:worker:<name>:executions     set         <job>:<execution>
-- KEYS[10]  rq:worker:<name>                hash
--
-- ARGV[1]   id of the job
-- ARGV[2]   id of the execution
-- ARGV[3]   the job's status: `finished` or `failed`
-- ARGV[4]   the time, as RQ writes it into `ended_at`
-- ARGV[5]   seconds that it ran
-- ARGV[6]   field of the worker's hash that counts such endings
-- ARGV[7]   seconds that job and result are kept; negative: for ever
-- ARGV[8]   score in the registry
-- ARGV[9]   what deltabus notes of a failure (`deltabus_failure`), or ""
-- ARGV[10..] fields and values of RQ's result
--
-- Returns 1 when done. With nothing written: 0, the job does not run in that execution any more, or 2, others depend on
-- it. A key of the wrong type does not keep the job from its end: then what Redis said of it is returned, as a string.

if redis.call('EXISTS', KEYS[3]) == 1 then
  return redis.call('EXISTS', KEYS[1]) * 2
end
-- First: of two workers that both run the job, one ends it.
if redis.call('DEL', KEYS[1]) == 0 then
  return 0
end

local wrong = false
local function try(...)
  local reply = redis.pcall(...)
  wrong = wrong or (type(reply) == 'table' and reply.err)
end

local ttl = tonumber(ARGV[7])
local member = ARGV[1] .. ':' .. ARGV[2]
try('HSET', KEYS[2], 'status', ARGV[3], 'ended_at', ARGV[4])
if ARGV[9] ~= '' then
  try('HSET', KEYS[2], 'deltabus_failure', ARGV[9])
end
try('HINCRBY', KEYS[10], ARGV[6], 1)
try('HINCRBYFLOAT', KEYS[10], 'total_working_time', ARGV[5])
try('XADD', KEYS[5], 'MAXLEN', '~', 10, '*', unpack(ARGV, 10))
try('ZADD', KEYS[6], ARGV[8], ARGV[1])
if ttl < 0 then
  try('PERSIST', KEYS[5])
else
  try('EXPIRE', KEYS[5], ttl)
  try('EXPIRE', KEYS[4], ttl)
  try('EXPIRE', KEYS[2], ttl)
end
try('ZREM', KEYS[7], member)
try('ZREM', KEYS[8], ARGV[2])
try('SREM', KEYS[9], member)
-- Whoever requeues the job begins anew.
try('HDEL', KEYS[2], 'deltabus_open', 'deltabus_lost', 'deltabus_failures')
return wrong or 1
