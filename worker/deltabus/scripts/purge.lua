-- Delete a failed job with all that RQ has of it. All keys are RQ's.
--
-- KEYS[1]  rq:failed:<queue>           sorted set; ids of failed jobs
-- KEYS[2]  rq:job:<id>                 hash; the job
-- KEYS[3]  rq:results:<id>             stream; RQ's results
-- KEYS[4]  rq:job:<id>:dependents      set; ids of jobs that wait for this one
-- KEYS[5]  rq:job::<id>:dependencies   set; ids of jobs that this one waited for
--
-- ARGV[1]  id of the job
-- ARGV[2]  prefix of RQ's groups (rq:group:), sets of job ids
--
-- Returns "purged" or "not failed".

if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 'not failed'
end
if redis.call('TYPE', KEYS[2]).ok == 'hash' then
  local job = redis.call('HMGET', KEYS[2], 'status', 'group_id')
  if job[1] and job[1] ~= '' and job[1] ~= 'failed' then
    return 'not failed'
  end
  if job[2] and job[2] ~= '' then
    redis.pcall('SREM', ARGV[2] .. job[2], ARGV[1])
  end
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('UNLINK', unpack(KEYS, 2))
return 'purged'
