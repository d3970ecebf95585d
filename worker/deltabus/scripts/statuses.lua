-- What RQ has as the statuses of jobs.
--
-- KEYS[1]  rq:job:<id>  hash; a job; and so on, one a job
--
-- Returns a list of them; nil where there is none: the job is gone, or RQ did not put there what is under its name.

local found = {}
for number, key in ipairs(KEYS) do
  local status = redis.pcall('HGET', key, 'status')
  found[number] = type(status) == 'string' and status
end
return found
