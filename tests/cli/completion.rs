//! Completions that shells load.

use crate::environment::Environment;

#[test]
fn bash_completes_commands_and_flags() {
    let environment = Environment::new();
    let run = environment.bash("ctl completion bash > ctl.bash && bash -n ctl.bash");
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    let complete = |words: &str, place: usize| {
        let line = format!(
            "source ctl.bash; COMP_WORDS=({words}); COMP_CWORD={place}; _ctl ctl \"${{COMP_WORDS[{place}]}}\" \"${{COMP_WORDS[$(({place} - 1))]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let run = environment.bash(&line);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{words}");
        run.stdout.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    assert_eq!(complete("ctl migr", 1), ["migrate"]);
    assert_eq!(complete("ctl host enr", 2), ["enroll"]);
    assert_eq!(complete("ctl migrate --max-d", 2), ["--max-delete"]);
    assert_eq!(complete("ctl report --format m", 3), ["markdown"]);
}

#[test]
fn other_shells_get_theirs() {
    let environment = Environment::new();
    for shell in ["zsh", "fish"] {
        let run = environment.run(&format!("ctl completion {shell}"));
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(run.stdout.contains("migrate"), "{shell}");
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let environment = Environment::new();
    // Longer than a pipe holds, so that the writer is there when the reader leaves.
    let line = "for round in 1 2 3; do ctl completion zsh; done > /dev/null; \
                (ctl completion zsh; echo \"= $?\" >&2) | head -c 1 > /dev/null";
    let run = environment.bash(line);
    assert_eq!(run.stderr, "= 0\n");
}
