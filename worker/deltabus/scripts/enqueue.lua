-- Put a job on a queue, unless its id is taken.
--
-- KEYS[1]  rq:job:<id>             hash; the job
-- KEYS[2]  rq:queue:<queue>        list; ids of the jobs that wait
-- KEYS[3]  rq:queues               set; keys of all queues
-- KEYS[4]  deltabus:{task}:log     stream; one that is left takes the id as well
-- KEYS[5]  deltabus:{task}:cancel  string; one that is left was meant for an earlier task of this id
--
-- ARGV[1]     id of the job
-- ARGV[2]     time of its creation, to the microsecond: tells a re-sent call from another job of this id
-- ARGV[3...]  fields and values of the job, `created_at` among them
--
-- Returns 1 (it is there, now or by an earlier sending) or 0 (the id is taken).

if redis.call('EXISTS', KEYS[1], KEYS[4]) > 0 then
  return redis.call('HGET', KEYS[1], 'created_at') == ARGV[2] and 1 or 0
end

-- First what can fail, should the queue's key be of another type.
redis.call('RPUSH', KEYS[2], ARGV[1])
redis.call('SADD', KEYS[3], KEYS[2])
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
redis.call('DEL', KEYS[5])
return 1
