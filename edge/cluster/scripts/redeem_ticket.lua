-- The holder of a ticket, which is used up by this.  ARGV: digest, the project that redeems it
local holder = redis.call('GET', ticket(ARGV[1]))
redis.call('DEL', ticket(ARGV[1]))
redis.call('ZREM', TICKETS, ARGV[1])
redis.call('ZREM', TICKETS .. ':' .. ARGV[2], ARGV[1])
return holder
