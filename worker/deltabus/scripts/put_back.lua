-- Move a job that never started from the intermediate list to the front of its queue.
--
-- KEYS[1]  rq:queue:<name>:intermediate                   list
-- KEYS[2]  rq:queue:<name>                                list
-- KEYS[3]  rq:queue:<name>:intermediate:first_seen:<id>   string; RQ's note of when it was seen there first
-- ARGV[1]  the job's id
--
-- Returns 1 when it was moved, 0 when it was not there any more.

redis.call('DEL', KEYS[3])
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then
  return 0
end
redis.call('LPUSH', KEYS[2], ARGV[1])
return 1
