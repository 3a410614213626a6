-- The ledger: forgets the account ARGV[1] unless leases hold some of it. Gives '1' when it is gone.
local account = KEYS[1] .. ':a:' .. ARGV[1]
if (redis.call('HGET', account, 'held') or '0') ~= '0' then
    return {'0'}
end
redis.call('DEL', account)
return {'1'}
