# Completion of refloat in fish. Made by: refloat completions fish

function __refloat_complete
    set -l words (commandline --current-process --tokenize --cut-at-cursor)
    set -l current (commandline --current-token --cut-at-cursor)
    for answer in ($words[1] complete-values fish (count $words) -- $words "$current" 2>/dev/null)
        switch $answer
            case :files
                __fish_complete_path "$current"
            case :directories
                __fish_complete_directories "$current"
            case '*'
                echo $answer
        end
    end
end

complete --command refloat --no-files --keep-order --arguments '(__refloat_complete)'
