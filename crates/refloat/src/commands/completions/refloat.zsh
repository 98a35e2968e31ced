#compdef refloat
# Completion of refloat in zsh. Made by: refloat completions zsh

_refloat() {
    local answer
    local -a answers
    for answer in "${(@f)$("${words[1]}" complete-values zsh $((CURRENT - 1)) -- "${(@)words[1,CURRENT]}" 2>/dev/null)}"; do
        case $answer in
            '') ;;
            :files) _files; return ;;
            :directories) _files -/; return ;;
            *) answers+=("$answer") ;;
        esac
    done
    _describe -V 'refloat' answers
}

if [ "$funcstack[1]" = _refloat ]; then
    _refloat "$@"
else
    compdef _refloat refloat
fi
