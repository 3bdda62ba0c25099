-- A node's number of readers of one project, as it is now; and, where `told` is 1, that a reader was told of what is lost.
-- KEYS: presence, nodes, followed, meta, stream, pending    ARGV: node, project, readers, told, keep ms
redis.call('ZADD', KEYS[2], now_seconds(), ARGV[1])
redis.call('SADD', KEYS[3], ARGV[2])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('HSETNX', KEYS[1], ARGV[1] .. '/from', redis.call('HGET', KEYS[4], 'seq') or 0)
if ARGV[4] == '1' then redis.call('HSET', KEYS[4], 'untold', 0) end
for i = 4, 6 do redis.call('PEXPIRE', KEYS[i], ARGV[5]) end
return 1
