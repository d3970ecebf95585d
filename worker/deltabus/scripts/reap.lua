-- Renew a worker's lease; then take the jobs of workers whose leases have run out, and requeue them at the front.
--
-- KEYS[1]  rq:deltabus:workers   sorted set; worker names, scored by the time at which their leases run out
-- KEYS[2]  rq:workers            set; RQ's list of worker keys
-- ARGV[1]  this worker's name
-- ARGV[2]  seconds that a lease lasts
-- ARGV[3]  prefix of RQ's keys
-- ARGV[4]  how many jobs to requeue at the most
-- ARGV[5]  "1": this worker has just been born, and what its name still runs is from an earlier life
-- ARGV[6]  "1": look for other workers' leases too
-- ARGV[7..] members of this worker's own executions, as <job>:<execution>, which it does not run
--
-- The keys of a dead worker and its jobs follow from what is found; all are RQ's:
--   <rq>:worker:<name>                hash
--   <rq>:worker:<name>:executions     set of <job>:<execution>; what it was running
--   <rq>:execution:<job>:<execution>  hash
--   <rq>:executions:<job>             sorted set of executions
--   <rq>:wip:<queue>                  sorted set of <job>:<execution>
--   <rq>:job:<job>                    hash; `deltabus_lost` counts how often the job lost its worker
--   <rq>:queue:<queue>                list
--   <rq>:workers:<queue>              set of worker keys
--
-- Returns {whether this worker's lease was still good (0 or 1), requeued ids, names of the workers that are
-- done with, whether there is more to do (0 or 1), seconds until another worker's lease runs out ("": there is none),
-- ids of jobs that were deleted while they ran: they cannot run again, and only the caller knows that they were there}.

local rq = ARGV[3]
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local lease = tonumber(ARGV[2])
local own = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now + lease, ARGV[1])
local good = own and tonumber(own) >= now

local deleted = {}

-- Whatever is of the wrong type, of RQ's keys and those of a job: whoever lives goes on all the same.
local function requeue(worker_executions, member)
  redis.pcall('SREM', worker_executions, member)
  local job, execution = string.match(member, '^(.*):([^:]*)$')
  if not job then
    return nil
  end
  local job_key = rq .. ':job:' .. job
  local origin = redis.pcall('HGET', job_key, 'origin')
  local queue = type(origin) == 'string' and rq .. ':queue:' .. origin
  local kind = queue and redis.call('TYPE', queue).ok
  if queue and kind ~= 'list' and kind ~= 'none' and redis.call('HGET', job_key, 'status') == 'started' then
    return nil -- it can go nowhere; RQ's records of its run stay, for those who find them once the queue is one
  end
  local ran = redis.call('DEL', rq .. ':execution:' .. member) == 1
  redis.pcall('ZREM', rq .. ':executions:' .. job, execution)
  if not queue then
    deleted[#deleted + 1] = job
    return nil
  end
  if not ran then
    return nil
  end
  redis.pcall('ZREM', rq .. ':wip:' .. origin, member)
  if redis.call('HGET', job_key, 'status') ~= 'started' then
    return nil
  end
  if type(redis.pcall('HINCRBY', job_key, 'deltabus_lost', 1)) == 'table' then -- it was no number
    redis.call('HSET', job_key, 'deltabus_lost', 1)
  end
  redis.call('HSET', job_key, 'status', 'queued', 'started_at', '', 'worker_name', '')
  redis.call('LPUSH', queue, job)
  return job
end

local requeued, buried = {}, {}
local room = tonumber(ARGV[4])

local function requeue_all(executions)
  for _, member in ipairs(redis.pcall('SRANDMEMBER', executions, room)) do
    requeued[#requeued + 1] = requeue(executions, member)
    room = room - 1
  end
end

if ARGV[5] == '1' then
  requeue_all(rq .. ':worker:' .. ARGV[1] .. ':executions')
end
for i = 7, #ARGV do
  requeued[#requeued + 1] = requeue(rq .. ':worker:' .. ARGV[1] .. ':executions', ARGV[i])
end
local dead = ARGV[6] == '1' and good and redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now) or {}
for _, name in ipairs(dead) do
  local worker_key = rq .. ':worker:' .. name
  local executions = worker_key .. ':executions'
  if room > 0 then
    requeue_all(executions)
  end
  if room <= 0 then
    break
  end
  local queues = redis.pcall('HGET', worker_key, 'queues')
  for queue in string.gmatch(type(queues) == 'string' and queues or '', '[^,]+') do
    redis.pcall('SREM', rq .. ':workers:' .. queue, worker_key)
  end
  redis.pcall('SREM', KEYS[2], worker_key)
  redis.call('DEL', worker_key, executions)
  redis.call('ZREM', KEYS[1], name)
  buried[#buried + 1] = name
end
local wait = ''
local first = redis.call('ZRANGE', KEYS[1], 0, 1, 'WITHSCORES')
for i = #first - 1, 1, -2 do
  if first[i] ~= ARGV[1] then
    wait = string.format('%.6f', tonumber(first[i + 1]) - now)
  end
end
return {good and 1 or 0, requeued, buried, room <= 0 and 1 or 0, wait, deleted}
