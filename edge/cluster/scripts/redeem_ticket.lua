-- The holder of a ticket, which is used up by this.
-- KEYS: tickets, tickets of the project that redeems it, ticket    ARGV: digest
local holder = redis.call('GET', KEYS[3])
redis.call('DEL', KEYS[3])
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return holder
