-- A node ends in order: it has no connections any more.  ARGV: node
redis.call('ZREM', NODES, ARGV[1])
redis.call('DEL', followed(ARGV[1]), reported(ARGV[1]))
