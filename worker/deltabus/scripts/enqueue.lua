-- Put jobs on a queue, except those whose ids are taken. All keys are RQ's.
--
-- KEYS[1]     rq:queue:<queue>  list; ids of the jobs that wait
-- KEYS[2]     rq:queues         set; keys of all queues
-- KEYS[3...]  rq:job:<id>       hashes; the jobs, in the order in which they are to run
--
-- ARGV[1]     time of their creation, to the microsecond: tells a re-sent call from other jobs of these ids
-- ARGV[2]     how many words the fields and values are that all of them have
-- ARGV[3...]  those, `created_at` among them; then for each job its id, its `timeout` and its `data`
--
-- Returns the ids that are taken. The other jobs are there, now or by an earlier sending.

local shared = tonumber(ARGV[2])
local fields = {'data', '', 'timeout', '', unpack(ARGV, 3, 2 + shared)}

local new, waiting, taken = {}, {}, {}
for i = 3, #KEYS do
  local at = 3 + shared + (i - 3) * 3
  if redis.call('EXISTS', KEYS[i]) == 0 then
    new[#new + 1] = {KEYS[i], ARGV[at + 1], ARGV[at + 2]}
    waiting[#waiting + 1] = ARGV[at]
  elseif redis.call('HGET', KEYS[i], 'created_at') ~= ARGV[1] then
    taken[#taken + 1] = ARGV[at]
  end
end
if #new == 0 then
  return taken
end

-- Keys of another type are refused before anything is written. Who may not read the queue need not.
local length = redis.pcall('LLEN', KEYS[1])
if type(length) == 'table' and string.find(length.err, 'WRONGTYPE') then
  return length
end
redis.call('SADD', KEYS[2], KEYS[1])
redis.call('RPUSH', KEYS[1], unpack(waiting))
for _, job in ipairs(new) do
  fields[4], fields[2] = job[2], job[3]
  redis.call('HSET', job[1], unpack(fields))
end
return taken
