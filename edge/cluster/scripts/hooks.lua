-- A node wants webhooks: one of those that do sends them, as long as it comes back. What is due is queued.
-- ARGV: node, grace, for how many ms webhooks are wanted, how many to return
-- Returns nothing for other nodes than the sender, or {webhooks, how many wait, how many were dropped since}
redis.call('SET', HOOKS, ARGV[2], 'PX', ARGV[3])
if not redis.call('SET', HOOKS .. ':sender', ARGV[1], 'NX', 'PX', TTL_SECONDS * 1000) then
  if redis.call('GET', HOOKS .. ':sender') ~= ARGV[1] then return end
  redis.call('PEXPIRE', HOOKS .. ':sender', TTL_SECONDS * 1000)
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', VACATING, '-inf', now, 'LIMIT', 0, 100)) do
  local p = project(name)
  redis.call('ZREM', VACATING, name)
  if presence(p) == 0 then
    redis.call('SREM', OCCUPIED, name)
    hook(p, 'vacated', { connections = 0 })
  end
end
local dropped = tonumber(redis.call('GET', HOOKS .. ':dropped') or '0')
redis.call('DEL', HOOKS .. ':dropped')
return { redis.call('LRANGE', HOOKS .. ':queue', 0, ARGV[4] - 1), redis.call('LLEN', HOOKS .. ':queue'), dropped }
