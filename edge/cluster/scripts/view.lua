-- The status of one project on all nodes.  KEYS: stream, meta, pending, presence, nodes    ARGV: node ttl
-- Returns {connections, meta, events held, oldest number held, pending}
local there = presence(KEYS[4], KEYS[5], now_seconds(), tonumber(ARGV[1]))
return {
  there, redis.call('HGETALL', KEYS[2]), redis.call('XLEN', KEYS[1]), oldest_held(KEYS[1]) or 0,
  redis.call('ZCARD', KEYS[3]),
}
