-- A node is alive. Nodes without a heartbeat for `ttl` seconds are taken out: their connections don't count, and what
-- was published since their last heartbeat, and no other connection covers, is missed. The node hears its heartbeat in
-- its inbox, if it hears anything.
-- KEYS: nodes    ARGV: node, inbox, ttl, prefix, max age
-- Returns {1 when the node was known before, nodes taken out, now, 1 when the node reports the totals, and of all projects:
--   misses, recovered, lost, pending}
local now, ttl, prefix = now_seconds(), tonumber(ARGV[3]), ARGV[4]
local all, aging, totals = prefix .. 'pending', prefix .. 'aging', prefix .. 'totals'
local known = redis.call('ZSCORE', KEYS[1], ARGV[1]) and 1 or 0
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('PUBLISH', ARGV[2], 'heartbeat')
if redis.call('EXISTS', totals) == 0 then
  -- Begun by version 0.1, which kept no totals.
  redis.call('HSET', totals, 'misses', redis.call('HGET', all, '') or '0', 'recovered', 0, 'lost', 0)
end
local dead, gone = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ttl, 'WITHSCORES'), {}
for i = 1, #dead, 2 do
  local node, last = dead[i], tonumber(dead[i + 1])
  gone[#gone + 1] = node
  local followed = prefix .. 'node:' .. node
  for _, project in ipairs(redis.call('SMEMBERS', followed)) do
    local at = prefix .. '{' .. project .. '}:'
    redis.call('HDEL', at .. 'presence', node, node .. '/from')
    local there, from = presence(at .. 'presence', KEYS[1], now, ttl)
    local newest = tonumber(redis.call('HGET', at .. 'meta', 'seq') or '0')
    local lo = newest + 1
    for _, entry in ipairs(redis.call('XREVRANGE', at .. 'stream', '+', '-')) do
      if tonumber(entry[2][2]) < last then break end
      lo = tonumber(string.match(entry[1], '^%d+'))
    end
    miss_uncovered(at .. 'stream', at .. 'meta', at .. 'pending', there, from, lo, newest, now)
  end
  redis.call('DEL', followed, prefix .. 'report:' .. node)
  redis.call('ZREM', KEYS[1], node)
end
-- What is over age and no peer received is lost; a part of it with each heartbeat.
for _, project in ipairs(redis.call('ZRANGEBYSCORE', aging, '-inf', now - tonumber(ARGV[5]), 'LIMIT', 0, 100)) do
  local at = prefix .. '{' .. project .. '}:'
  lose_pending(at .. 'meta', at .. 'pending')
  redis.call('ZREM', aging, project)
end
-- One node has the totals in its metrics, as long as it lives.
local reporter = redis.call('GET', prefix .. 'reporter')
if not reporter or not redis.call('ZSCORE', KEYS[1], reporter) then
  reporter = ARGV[1]
  redis.call('SET', prefix .. 'reporter', reporter)
end
local misses, recovered, lost = unpack(redis.call('HMGET', totals, 'misses', 'recovered', 'lost'))
return {
  known, gone, tostring(now), reporter == ARGV[1] and 1 or 0, tonumber(misses or '0'), tonumber(recovered or '0'), tonumber(lost or '0'),
  tonumber(redis.call('HGET', all, '') or '0'),
}
