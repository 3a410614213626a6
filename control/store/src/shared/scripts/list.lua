-- Documents after ARGV[2] and before ARGV[3], in order. ARGV: now, from, to, limit, the bytes that end a page.
-- Gives the key to go on after ('' at the end), then key, revision, end and value of each.
local tag, now, from = KEYS[1], tonumber(ARGV[1]), ARGV[2]
local limit, heaviest = tonumber(ARGV[4]), tonumber(ARGV[5])
local out, count, weight, last = {''}, 0, 0, ''
repeat
    local keys = redis.call('ZRANGEBYLEX', tag .. ':keys', '(' .. from, '(' .. ARGV[3], 'LIMIT', 0, 200)
    for _, key in ipairs(keys) do
        local found = redis.call('HMGET', tag .. ':d:' .. key, 'revision', 'expires')
        if found[1] and (found[2] == '' or tonumber(found[2]) > now) then
            if count == limit or weight > heaviest then
                out[1] = last
                return out
            end
            local value = redis.call('HGET', tag .. ':d:' .. key, 'value')
            for _, part in ipairs({key, found[1], found[2], value}) do
                out[#out + 1] = part
            end
            count, weight, last = count + 1, weight + #value, key
        end
        from = key
    end
until #keys < 200
return out
