# zsh -f completions.zsh SCRIPT LINE...: prints "==" for each line, and then what zsh offers at its end.
# A zsh in a terminal of its own completes; what its builtin compadd would add is printed.
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PROMPT= RPROMPT= PROMPT_EOL_MARK='
zpty -w shell 'autoload -Uz compinit; compinit -u -D'
zpty -w shell "source ${(q)1}"
zpty -w shell 'compadd() {
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
    typeset -a hits
    builtin compadd -A hits "$@"
    (( $#hits )) && print -rl -- "" ___$^hits
    builtin compadd "$@"
}'
zpty -w shell 'ends() { BUFFER=; zle -I; print; print ___END; }; zle -N ends; bindkey "^O" ends'
zpty -w shell 'zle -C offers complete-word _main_complete; bindkey "^I" offers'
zpty -w shell 'print READY""NOW'
while zpty -r shell line $'*\n'; do [[ $line == *READYNOW* ]] && break; done
for line in "${@[2,-1]}"; do
    print -r -- "=="
    zpty -n -w shell "$line"$'\t\x0f'
    while zpty -r shell line $'*\n'; do
        line=${line%%[$'\r\n']*}
        [[ $line == ___END ]] && break
        [[ $line == ___* ]] && print -r -- ${line#___}
    done
done
zpty -d shell
