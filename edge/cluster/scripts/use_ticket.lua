-- Whose a ticket was; it is used up by that.  KEYS: tickets, ticket    ARGV: digest
local whose = redis.call('GET', KEYS[2])
redis.call('DEL', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
return whose
