-- Keep a ticket until it is redeemed or expires, if the hub and the project have room for one more.
-- ARGV: digest, project, holder, ms to live, most tickets, most of a project
-- Returns 1 when it is kept, 0 when the hub has too many, -1 when the project has.
local tables, most = { TICKETS, TICKETS .. ':' .. ARGV[2] }, { tonumber(ARGV[5]), tonumber(ARGV[6]) }
for i = 1, 2 do
  redis.call('ZREMRANGEBYSCORE', tables[i], '-inf', now)
  if redis.call('ZCARD', tables[i]) >= most[i] then return 1 - i end
end
redis.call('SET', ticket(ARGV[1]), ARGV[3], 'PX', ARGV[4])
for i = 1, 2 do
  redis.call('ZADD', tables[i], now + tonumber(ARGV[4]) / 1000, ARGV[1])
  redis.call('PEXPIRE', tables[i], ARGV[4])
end
return 1
