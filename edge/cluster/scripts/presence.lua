-- A node's connections of one project, what they cover, and what their peers and those before them have received, as it
-- is now. With none, what was published while the node still counted and never reached it is missed, unless another
-- node's connections cover it.
-- ARGV: number of the report, node, project, epoch, newest number the node has, connections, the number after which they
--   cover everything, lo, hi, lo, hi, ...
local node, p = ARGV[2], project(ARGV[3])
if not is_news(node, ARGV[1]) then return end
local epoch, newest = unpack(redis.call('HMGET', p.meta, 'epoch', 'seq'))
if epoch == ARGV[4] then
  for i = 8, #ARGV, 2 do receive(p, tonumber(ARGV[i]), tonumber(ARGV[i + 1])) end
end
if ARGV[6] == '0' then
  local counted = redis.call('HDEL', p.presence, node, node .. '/from') > 0
  redis.call('SREM', followed(node), p.name)
  local there, from = presence(p)
  if counted then vacate(p, there) end
  if not counted or epoch ~= ARGV[4] then return end
  miss_uncovered(p, there, from, tonumber(ARGV[5]) + 1, newest)
else
  redis.call('SADD', followed(node), p.name)
  redis.call('HSET', p.presence, node, ARGV[6], node .. '/from', ARGV[7])
  redis.call('HDEL', p.meta, 'silent')
  for _, key in ipairs({ p.stream, p.meta, p.pending }) do redis.call('PEXPIRE', key, KEEP_MS) end
end
