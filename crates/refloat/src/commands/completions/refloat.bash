# Completion of refloat in bash. Made by: refloat completions bash

_refloat() {
    local answer
    COMPREPLY=()
    while IFS= read -r answer; do
        case $answer in
            :files)
                compopt -o filenames 2>/dev/null
                mapfile -t COMPREPLY < <(compgen -f -- "$2") ;;
            :directories)
                compopt -o filenames 2>/dev/null
                mapfile -t COMPREPLY < <(compgen -d -- "$2") ;;
            *)
                COMPREPLY+=("$answer") ;;
        esac
    done < <("$1" complete-values bash "$COMP_CWORD" -- "${COMP_WORDS[@]}" 2>/dev/null)
}

# The newest backup comes first, which bash before 4.4 cannot be told.
complete -o nosort -F _refloat refloat 2>/dev/null || complete -F _refloat refloat
