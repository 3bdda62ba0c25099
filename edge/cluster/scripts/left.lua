-- A reader has left a node: what it had not acknowledged, and no other node's readers cover, is missed.
-- KEYS: stream, meta, pending, presence, nodes, followed
-- ARGV: node, project, readers that stay, node ttl, epoch, newest number the node knew, then lo, hi, lo, hi, ...
-- Returns {missed, lost}
local now, node = now_seconds(), ARGV[1]
local there, from = presence(KEYS[4], KEYS[5], now, tonumber(ARGV[4]), node)
local missed, lost = 0, 0
if redis.call('HGET', KEYS[2], 'epoch') == ARGV[5] then
  local function orphan(lo, hi)
    if there > 0 and from < hi then hi = from end
    local m, l = miss(KEYS[1], KEYS[2], KEYS[3], lo, hi, now)
    missed, lost = missed + m, lost + l
  end
  for i = 7, #ARGV, 2 do orphan(tonumber(ARGV[i]), tonumber(ARGV[i + 1])) end
  -- Events that were numbered while this node still counted, and that never reached it.
  if ARGV[3] == '0' then orphan(tonumber(ARGV[6]) + 1, tonumber(redis.call('HGET', KEYS[2], 'seq'))) end
end
if ARGV[3] == '0' then
  redis.call('HDEL', KEYS[4], node, node .. '/from')
  redis.call('SREM', KEYS[6], ARGV[2])
else
  redis.call('HSET', KEYS[4], node, ARGV[3])
end
return { missed, lost }
