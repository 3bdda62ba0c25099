-- Keep a ticket until it is redeemed or expires, if the hub and the project have room for one more.
-- KEYS: tickets, tickets of the project, ticket    ARGV: digest, holder, ms to live, most tickets, most of a project
-- Returns 1 when it is kept, 0 when the hub has too many, -1 when the project has.
local now = now_seconds()
local most = {tonumber(ARGV[4]), tonumber(ARGV[5])}
for i = 1, 2 do
  redis.call('ZREMRANGEBYSCORE', KEYS[i], '-inf', now)
  if redis.call('ZCARD', KEYS[i]) >= most[i] then return 1 - i end
end
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
for i = 1, 2 do
  redis.call('ZADD', KEYS[i], now + tonumber(ARGV[3]) / 1000, ARGV[1])
  redis.call('PEXPIRE', KEYS[i], ARGV[3])
end
return 1
