-- A node lives. Nodes that have not beaten for `ttl` seconds are taken out: their readers don't count, and what was
-- numbered since their last beat, and nobody else covers, is missed.
-- The node hears of it on its channel, if it hears at all.
-- KEYS: nodes    ARGV: node, ttl, prefix, max age
-- Returns {1 when the node was known before, nodes taken out, missed, now, lost, pending in all projects as it tells it}
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
-- What is over age and nobody got is lost; a part of it with each beat.
local all, aging, lost = ARGV[3] .. 'pending', ARGV[3] .. 'aging', 0
for _, project in ipairs(redis.call('ZRANGEBYSCORE', aging, '-inf', now - tonumber(ARGV[4]), 'LIMIT', 0, 100)) do
  local at = ARGV[3] .. '{' .. project .. '}:'
  local held = tonumber(redis.call('HGET', all, project) or '0')
  redis.call('DEL', at .. 'pending')
  recount(at .. 'pending')
  redis.call('ZREM', aging, project)
  if redis.call('EXISTS', at .. 'meta') == 1 then
    redis.call('HINCRBY', at .. 'meta', 'lost', held)
    redis.call('HINCRBY', at .. 'meta', 'untold', held)
  end
  lost = lost + held
end
-- One node tells of all, so that the sum over the nodes is right: the first by name.
local nodes, first = redis.call('ZRANGE', KEYS[1], 0, -1), ARGV[1]
for _, node in ipairs(nodes) do if node < first then first = node end end
local pending = first == ARGV[1] and tonumber(redis.call('HGET', all, '') or '0') or 0
return { known, gone, missed, tostring(now), lost, pending }
