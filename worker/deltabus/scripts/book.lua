-- Carry out commands that RQ's own code composed, as one step, if the job still runs in that execution.
--
-- KEYS[1]    rq:execution:<job>:<execution>  hash
-- ARGV[1..]  commands, each as its number of words and the words
--
-- Returns 1 when done. 0: it does not; no command was carried out. Where a command fails, the rest are left out, and the
-- error is returned, unless it is for a key of the wrong type: then the rest are carried out before.

if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local wrong
local i = 1
while i <= #ARGV do
  local words = tonumber(ARGV[i])
  local reply = redis.pcall(unpack(ARGV, i + 1, i + words))
  if type(reply) == 'table' and reply.err then
    if not string.find(reply.err, 'WRONGTYPE', 1, true) then
      return reply
    end
    wrong = wrong or reply
  end
  i = i + words + 1
end
return wrong or 1
