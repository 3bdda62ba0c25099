-- A node wants webhooks: one of those that do sends them, as long as it comes back. What is due is queued.
-- KEYS: nodes    ARGV: prefix, node, node ttl, grace, for how many ms webhooks are wanted, for how many ms this node is the
--   sender, how many to return
-- Returns nothing for other nodes than the sender, or {webhooks, how many wait, how many were dropped since}
local now, prefix, hooks = now_seconds(), ARGV[1], ARGV[1] .. 'hooks'
redis.call('SET', hooks, ARGV[4], 'PX', ARGV[5])
if not redis.call('SET', hooks .. ':sender', ARGV[2], 'NX', 'PX', ARGV[6]) then
  if redis.call('GET', hooks .. ':sender') ~= ARGV[2] then return end
  redis.call('PEXPIRE', hooks .. ':sender', ARGV[6])
end
for _, project in ipairs(redis.call('ZRANGEBYSCORE', hooks .. ':vacating', '-inf', now, 'LIMIT', 0, 100)) do
  local at = prefix .. '{' .. project .. '}:'
  redis.call('ZREM', hooks .. ':vacating', project)
  if presence(at .. 'presence', KEYS[1], now, tonumber(ARGV[3])) == 0 then
    redis.call('SREM', hooks .. ':occupied', project)
    hook(at .. 'pending', 'vacated', { connections = 0 })
  end
end
local dropped = tonumber(redis.call('GET', hooks .. ':dropped') or '0')
redis.call('DEL', hooks .. ':dropped')
return { redis.call('LRANGE', hooks .. ':queue', 0, ARGV[7] - 1), redis.call('LLEN', hooks .. ':queue'), dropped }
