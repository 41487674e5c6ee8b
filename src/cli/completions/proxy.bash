# Completes command lines of proxy in bash; printed by `proxy completions bash`.

_proxy_words() {
    local line
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -W "$1" -- "$word")
}

_proxy_files() {
    local line
    # Outside of a completion, bash has no options of one to set.
    compopt -o filenames 2>/dev/null
    while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$word")
}

_proxy() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
    local at=1 command='' flags='' words='' files=''
    COMPREPLY=()
    # bash takes --flag=value apart at the "=".
    if [[ $word == "=" ]]; then
        word=''
    elif [[ $before == "=" ]]; then
        before=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case $before in
@VALUES@
    esac
    while ((at < COMP_CWORD)); do
        case ${COMP_WORDS[at]} in
            # The value of a flag is no command.
            @FLAGS_WITH_VALUES@)
                at=$((at + 1))
                [[ ${COMP_WORDS[at]} == "=" ]] && at=$((at + 1))
                ;;
            @COMMANDS@)
                command=${COMP_WORDS[at]}
                break
                ;;
        esac
        at=$((at + 1))
    done
    case $command in
@WORDS@
    esac
    if [[ $word == -* ]]; then
        _proxy_words "$flags"
    elif [[ -n $files ]]; then
        _proxy_files
    else
        _proxy_words "$words"
    fi
}

complete -F _proxy proxy
