-- Say how long a blob is, and keep it for as long as it is being read.
--
-- KEYS[1]  deltabus:blob:<id>  list; the blob's chunks
--
-- ARGV[1]  seconds that it lives at least from now on; 0: as long as it would
--
-- Returns the number of chunks, the bytes of the first and the bytes of the last; 0 alone: there is no blob.

local chunks = redis.call('LLEN', KEYS[1])
if chunks == 0 then
  return {0}
end
local left = redis.call('TTL', KEYS[1])
if left >= 0 and left < tonumber(ARGV[1]) then
  redis.call('EXPIRE', KEYS[1], ARGV[1])
end
return {chunks, #redis.call('LINDEX', KEYS[1], 0), #redis.call('LINDEX', KEYS[1], -1)}
