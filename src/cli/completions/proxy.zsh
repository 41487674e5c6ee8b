#compdef proxy
# Completes command lines of proxy in zsh; printed by `proxy completions zsh`.

_proxy() {
    local curcontext=$curcontext state line
    typeset -A opt_args
    local -a commands
    commands=(
@COMMANDS@
    )
    _arguments -C \
@FLAGS@
        '(-)1: :->command' \
        '(-)*:: :->words'
    case $state in
        command) _describe -t commands command commands ;;
        words)
            case $words[1] in
@WORDS@
            esac
            ;;
    esac
}

# Read by `source`, or loaded from a folder of $fpath at the first completion.
if [[ $funcstack[1] == _proxy ]]; then
    _proxy "$@"
else
    compdef _proxy proxy
fi
