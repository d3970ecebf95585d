-- Take jobs from their queues, highest priority first: read their hashes, and record that they run.
--
-- KEYS[1]  rq:suspended                 string      RQ's switch: nothing is taken while it exists
-- KEYS[2]  rq:deltabus:workers          sorted set  worker names by the time at which their leases run out
-- KEYS[3]  rq:worker:<name>:executions  set         <job>:<execution>; what the worker runs
-- KEYS[2i+2], KEYS[2i+3], of each queue:
--          rq:queue:<name>               list        waiting job ids
--          rq:queue:<name>:intermediate  list        taken, not yet started: a job is in a list, or recorded as running
-- The keys of a job follow from its id; all are RQ's:
--   <rq>:job:<job>                    hash; its `deltabus_open` names the execution that opened it
--   <rq>:execution:<job>:<execution>  hash
--   <rq>:executions:<job>             sorted set of executions
--   <rq>:wip:<queue>                  sorted set of <job>:<execution>
--
-- ARGV[1]      how many to take at the most
-- ARGV[2]      prefix of RQ's keys
-- ARGV[3]      largest `data` field to read, in bytes
-- ARGV[4]      name of the worker
-- ARGV[5]      seconds that a lease lasts
-- ARGV[6]      seconds that RQ's record of an execution lasts
-- ARGV[7]      the time, as Unix time in seconds
-- ARGV[8]      the time, as RQ writes it into a job's hash
-- ARGV[9]      what the ids of this call's executions begin with; eight hexadecimal digits follow
-- ARGV[10]     the same of an earlier call of this worker that had no answer: what it has started comes first. Or ""
-- ARGV[11..]   names of the queues, one for each
-- ARGV[..]     jobs that are in intermediate lists already, as triples: queue number, id, and the queue in whose registry
--              the job is to be, whatever its hash says, or ""
--
-- What needs a look first is only moved to the intermediate list: a hash that is missing, not one, too large, of another
-- queue or of a cancelled job. Keys of the wrong type keep no job from its start.
--
-- A worker that was away for so long that others have buried it may take a job before it renews its lease. Should it die
-- in between, nobody would know of it: so a start gives a lease to a worker that has none.
--
-- Returns {suspended, broken, jobs}: suspended is 0 or 1; broken lists numbers of queues one of whose keys is not
-- a list; each job is {queue number, id, hash, execution}, where the hash, as it was before, is a flat list of fields and
-- values, empty when there is none, or a number: the size of a `data` field that is over the limit; and the execution
-- is "" where the job was only moved.

local rq, worker, ttl, now, again = ARGV[2], ARGV[4], tonumber(ARGV[6]), ARGV[7], ARGV[10]
local queues = (#KEYS - 3) / 2
local ends = math.floor(tonumber(now)) + ttl
local jobs, broken, started = {}, {}, 0

local function read(id)
  local key = rq .. ':job:' .. id
  local size = redis.pcall('HSTRLEN', key, 'data')
  if type(size) == 'number' and size > tonumber(ARGV[3]) then
    return size
  end
  local hash = redis.pcall('HGETALL', key)
  return hash.err and {} or hash
end

-- Whether the job can be started without a further look.
local function is_plain(i, id, hash)
  if type(hash) == 'number' or #hash == 0 or not string.find(id, '^[%w_-]+$') then
    return false
  end
  for at = 1, #hash, 2 do
    local field, value = hash[at], hash[at + 1]
    if field == 'status' and value == 'canceled' or field == 'origin' and value ~= '' and value ~= ARGV[10 + i] then
      return false
    end
  end
  return true
end

-- As `rq.executions.Execution.create` and `rq.job.Job.prepare_for_execution` do it.
local function start(id, queue)
  local execution = ARGV[9] .. string.format('%08x', started)
  local member, job = id .. ':' .. execution, rq .. ':job:' .. id
  local record, index = rq .. ':execution:' .. member, rq .. ':executions:' .. id
  started = started + 1
  redis.call('HSET', record, 'id', execution, 'job_id', id, 'created_at', now, 'last_heartbeat', now,
    'worker_name', worker)
  redis.call('EXPIRE', record, ttl)
  redis.pcall('ZADD', index, ends + 60, execution)
  redis.pcall('EXPIRE', index, ttl + 60)
  redis.pcall('ZADD', rq .. ':wip:' .. queue, ends, member)
  redis.pcall('SADD', KEYS[3], member)
  redis.call('HSET', job, 'status', 'started', 'started_at', ARGV[8], 'last_heartbeat', ARGV[8], 'worker_name', worker)
  redis.call('HSETNX', job, 'deltabus_open', execution)
  local origin = redis.call('HGET', job, 'origin')
  if not origin or origin == '' then -- without it, nobody could say where the job is to go should its worker die
    redis.call('HSET', job, 'origin', queue)
  end
  redis.call('PERSIST', job)
  return execution
end

-- First of all that is written: if Redis is out of memory or disk, or a replica, it says so now, and nothing is taken.
local leased = false
local function lease()
  if not leased then
    local time = redis.call('TIME')
    redis.call('ZADD', KEYS[2], 'NX', time[1] + time[2] / 1000000 + tonumber(ARGV[5]), worker)
    leased = true
  end
end

if again ~= '' then
  for _, member in ipairs(redis.pcall('SMEMBERS', KEYS[3])) do
    local id, execution = string.match(member, '^(.*):([^:]*)$')
    if id and string.sub(execution, 1, #again) == again then
      local origin = redis.pcall('HGET', rq .. ':job:' .. id, 'origin')
      for i = 1, queues do
        if origin == ARGV[10 + i] then
          jobs[#jobs + 1] = {i, id, read(id), execution}
        end
      end
    end
  end
end

local suspended = redis.call('EXISTS', KEYS[1])
local room = suspended == 1 and 0 or tonumber(ARGV[1]) - #jobs

for at = 11 + queues, #ARGV, 3 do
  local i, id, queue = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2]
  local intermediate = KEYS[2 * i + 3]
  if redis.call('LPOS', intermediate, id) then -- others may have found it there, and put it back
    lease()
    local hash, execution = read(id), ''
    local wanted = queue ~= '' and redis.call('HGET', rq .. ':job:' .. id, 'status') ~= 'canceled'
    if wanted or suspended == 0 and queue == '' and is_plain(i, id, hash) then
      redis.call('LREM', intermediate, 1, id)
      execution = start(id, wanted and queue or ARGV[10 + i])
    end
    jobs[#jobs + 1] = {i, id, hash, execution}
  end
end

for i = 1, queues do
  local waiting, intermediate = KEYS[2 * i + 2], KEYS[2 * i + 3]
  local waits = redis.pcall('LLEN', waiting)
  if type(waits) == 'table' then
    broken[#broken + 1] = i
    waits = 0
  end
  for _ = 1, math.min(room, waits) do
    lease()
    local id = redis.call('LPOP', waiting)
    local hash, execution = read(id), ''
    if is_plain(i, id, hash) then
      execution = start(id, ARGV[10 + i])
    elseif type(redis.pcall('RPUSH', intermediate, id)) == 'table' then
      redis.call('LPUSH', waiting, id)
      broken[#broken + 1] = i
      break
    end
    jobs[#jobs + 1] = {i, id, hash, execution}
    room = room - 1
  end
end

if started > 0 then
  redis.call('EXPIRE', KEYS[3], ttl + 60)
end
return {suspended, broken, jobs}
