-- Read what is to be known of failed jobs, and of a payload no more than which function it calls.
--
-- KEYS[1]  rq:job:<id>      hash; the job
-- KEYS[2]  rq:results:<id>  stream; RQ's results, the newest last; and so on in pairs, one a job
-- ARGV[1]  bytes of a description to return
-- ARGV[2]  bytes of a payload to return, where there is no description
--
-- Returns for each job 0 (there is no hash), 1 (the key is no hash), or {status, origin, ended_at, worker_name,
-- deltabus_failure, description, beginning of the payload, newest result}.

local function read(job, results)
  local kind = redis.call('TYPE', job).ok
  if kind ~= 'hash' then
    return kind == 'none' and 0 or 1
  end
  local fields = redis.call('HMGET', job, 'status', 'origin', 'ended_at', 'worker_name', 'deltabus_failure')
  local description = redis.call('HGET', job, 'description') or ''
  fields[6] = string.sub(description, 1, tonumber(ARGV[1]))
  fields[7] = description == '' and string.sub(redis.call('HGET', job, 'data') or '', 1, tonumber(ARGV[2])) or ''
  local newest = redis.pcall('XREVRANGE', results, '+', '-', 'COUNT', 1)
  fields[8] = not newest.err and newest[1] or {}
  return fields
end

local jobs = {}
for i = 1, #KEYS, 2 do
  jobs[#jobs + 1] = read(KEYS[i], KEYS[i + 1])
end
return jobs
