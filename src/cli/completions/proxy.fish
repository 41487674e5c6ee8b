# Completes command lines of proxy in fish; printed by `proxy completions fish`.

set -l commands @COMMANDS@
complete -c proxy -f
@LINES@
