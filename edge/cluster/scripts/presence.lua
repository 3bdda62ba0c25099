-- A node's connections of one project, what they cover, and what their peers and those before them have received, as it
-- is now. With none, what was published while the node still counted and never reached it is missed, unless another
-- node's connections cover it.
-- KEYS: reported, stream, meta, pending, presence, nodes, followed
-- ARGV: number, node, node ttl, epoch, newest number the node has, project, connections, the number after which they
--   cover everything, keep ms, lo, hi, lo, hi, ...
if not is_news(KEYS[1], ARGV[1]) then return end
local now, node = now_seconds(), ARGV[2]
local epoch, newest = unpack(redis.call('HMGET', KEYS[3], 'epoch', 'seq'))
if epoch == ARGV[4] then
  for i = 10, #ARGV, 2 do receive(KEYS[3], tonumber(ARGV[i]), tonumber(ARGV[i + 1])) end
end
if ARGV[7] == '0' then
  local counted = redis.call('HDEL', KEYS[5], node, node .. '/from') > 0
  redis.call('SREM', KEYS[7], ARGV[6])
  local there, from = presence(KEYS[5], KEYS[6], now, tonumber(ARGV[3]))
  if counted then vacate(KEYS[4], there, now) end
  if not counted or epoch ~= ARGV[4] then return end
  miss_uncovered(KEYS[2], KEYS[3], KEYS[4], there, from, tonumber(ARGV[5]) + 1, newest, now)
else
  redis.call('SADD', KEYS[7], ARGV[6])
  redis.call('HSET', KEYS[5], node, ARGV[7], node .. '/from', ARGV[8])
  redis.call('HDEL', KEYS[3], 'silent')
  for i = 2, 4 do redis.call('PEXPIRE', KEYS[i], ARGV[9]) end
end
