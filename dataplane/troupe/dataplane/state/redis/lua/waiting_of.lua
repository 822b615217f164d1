-- with: entry inbox
-- ARGV: message id
local foremost = waiting(ARGV[2])[1] or scheduled(ARGV[2])[1]
return foremost and cmsgpack.pack(foremost)
