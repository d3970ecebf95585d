-- Append a chunk to a blob. Sent again after a lost reply, it appends nothing twice.
--
-- KEYS[1]  deltabus:blob:<id>  list; the blob's chunks
--
-- ARGV[1]  number of the chunk, from 0
-- ARGV[2]  its bytes
-- ARGV[3]  seconds that the blob lives from now on
--
-- Returns 1, or 0: the blob has not the chunks before this one, or has others after it.

local number = tonumber(ARGV[1])
local chunks = redis.call('LLEN', KEYS[1])
if chunks == number then
  redis.call('RPUSH', KEYS[1], ARGV[2])
elseif chunks ~= number + 1 then
  return 0
end
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
