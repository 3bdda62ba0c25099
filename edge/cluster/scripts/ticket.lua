-- Keep a ticket until it is used or has ended, if there is room for one more.
-- KEYS: tickets, ticket    ARGV: digest, whose it is, how long it is good in ms, most tickets    Returns 1 when it is kept
local now = now_seconds()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[4]) then return 0 end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]) / 1000, ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
