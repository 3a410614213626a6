-- The ledger: spent and held of each account in ARGV.
local out = {}
for _, account in ipairs(ARGV) do
    local balance = redis.call('HMGET', KEYS[1] .. ':a:' .. account, 'spent', 'held')
    out[#out + 1] = balance[1] or '0'
    out[#out + 1] = balance[2] or '0'
end
return out
