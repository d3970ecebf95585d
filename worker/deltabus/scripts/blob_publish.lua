-- Give a blob that is complete the id that was asked for. Sent again after a lost reply, it does no harm.
--
-- KEYS[1]  deltabus:blob:<id>  list; the blob as it was written
-- KEYS[2]  deltabus:blob:<id>  list; where it is wanted; what is there is replaced
--
-- ARGV[1]  number of its chunks
--
-- Returns 1, or 0: it has expired.

local chunks = tonumber(ARGV[1])
if redis.call('LLEN', KEYS[1]) == chunks then
  redis.call('RENAME', KEYS[1], KEYS[2])
  return 1
end
return redis.call('LLEN', KEYS[2]) == chunks and 1 or 0
