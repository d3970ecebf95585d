-- Move jobs from their queues to the intermediate lists, highest priority first, and read their hashes.
--
-- KEYS[1]                rq:suspended                    string  RQ's switch: nothing is taken while it exists
-- KEYS[2i], KEYS[2i+1]   rq:queue:<name>                 list    waiting job ids
--                        rq:queue:<name>:intermediate    list    taken, not yet started: a job is always in a list
-- ARGV[1]                how many to take at the most
-- ARGV[2]                prefix of job hashes (rq:job:)
-- ARGV[3]                largest `data` field to read, in bytes
-- ARGV[4...]             ids that the caller has moved already, as pairs: queue number, id
--
-- Returns {suspended, broken, jobs}: suspended is 0 or 1; broken lists numbers of queues whose key is not
-- a list; each job is {queue number, id, hash}, where the hash is a flat list of fields and values, empty
-- when there is none, or a number: the size of a `data` field that is over the limit.

local function read(id)
  local key = ARGV[2] .. id
  local size = redis.pcall('HSTRLEN', key, 'data')
  if type(size) == 'number' and size > tonumber(ARGV[3]) then
    return size
  end
  local hash = redis.pcall('HGETALL', key)
  return hash.err and {} or hash
end

local jobs, broken = {}, {}
for i = 4, #ARGV, 2 do
  jobs[#jobs + 1] = {tonumber(ARGV[i]), ARGV[i + 1], read(ARGV[i + 1])}
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {1, broken, jobs}
end
local room = tonumber(ARGV[1])
for i = 2, #KEYS, 2 do
  while room > 0 do
    local id = redis.pcall('LMOVE', KEYS[i], KEYS[i + 1], 'LEFT', 'RIGHT')
    if type(id) == 'table' then
      -- Out of memory or disk, or a replica: said before anything was moved, and of all queues.
      if not string.find(id.err, 'WRONGTYPE', 1, true) then
        return id
      end
      broken[#broken + 1] = i / 2
      break
    elseif not id then
      break
    end
    jobs[#jobs + 1] = {i / 2, id, read(id)}
    room = room - 1
  end
  if room == 0 then
    break
  end
end
return {0, broken, jobs}
