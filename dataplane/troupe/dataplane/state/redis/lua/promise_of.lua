-- with: shown
-- ARGV: promise id
local shown = shown_promise(ARGV[2])
return shown[1] and shown
