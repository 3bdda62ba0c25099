-- A node lives. Nodes that have not beaten for `ttl` seconds are taken out: their readers don't count, and what was
-- numbered since their last beat, and nobody else covers, is missed.
-- The node hears of it on its channel, if it hears at all.
-- KEYS: nodes    ARGV: node, ttl, prefix    Returns {1 when the node was known before, nodes taken out, missed, now}
local now, ttl = now_seconds(), tonumber(ARGV[2])
local known = redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PUBLISH', ARGV[3] .. 'node:' .. ARGV[1], 'beat')
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ttl, 'WITHSCORES')
local gone, missed = {}, 0
for i = 1, #dead, 2 do
  local node, last = dead[i], tonumber(dead[i + 1])
  gone[#gone + 1] = node
  local followed = ARGV[3] .. 'node:' .. node
  for _, project in ipairs(redis.call('SMEMBERS', followed)) do
    local at = ARGV[3] .. '{' .. project .. '}:'
    redis.call('HDEL', at .. 'presence', node, node .. '/from')
    local there, from = presence(at .. 'presence', KEYS[1], now, ttl)
    local newest = tonumber(redis.call('HGET', at .. 'meta', 'seq') or '0')
    local lo = newest + 1
    for _, entry in ipairs(redis.call('XREVRANGE', at .. 'stream', '+', '-')) do
      if tonumber(entry[2][2]) < last then break end
      lo = tonumber(string.match(entry[1], '^%d+'))
    end
    missed = missed + miss_uncovered(at .. 'stream', at .. 'meta', at .. 'pending', there, from, lo, newest, now)
  end
  redis.call('DEL', followed, ARGV[3] .. 'told:' .. node)
  redis.call('ZREM', KEYS[1], node)
end
return { known, gone, missed, tostring(now) }
