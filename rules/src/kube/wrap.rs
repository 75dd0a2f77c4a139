//! What is put in front of a command in a container, so that it can be ended from outside.
//!
//! The API can start a command and close its input; it can signal nothing, and a kubelet or containerd that dies may
//! leave the command running with its input open for ever. So `/bin/sh` starts it: it reads variables from the first
//! lines of its input (never from the command line, which process lists and audit logs show), leaves a watcher
//! behind, and becomes the command. The watcher ends the command's process group when the input ends (commands) or
//! when the limit has passed (commands and sessions). The command keeps the process id that the runtime knows, so
//! that what kills that kills the command itself.
//!
//! A process id is only signalled while it has the start time that it had: ids are used again.

/// Behind `limit NAME… -- program argument…`.
const PREAMBLE: &str = r#"l=$1; shift
while [ "$1" != -- ]; do IFS= read -r v || exit 125; export "$1=$v"; shift; done; shift
p=$$
birth() { read -r s </proc/$p/stat || return 1; set -- ${s##*) }; echo "${20}"; }
b=$(birth 2>/dev/null)
same() { [ -n "$b" ] && [ "$(birth 2>/dev/null)" = "$b" ]; }
hit() { kill -s "$1" -- -$p 2>/dev/null || kill -s "$1" $p; }
end() { same || exit 0; hit TERM; sleep 1; same && hit KILL; exit 0; }
late() { n=0; while [ "$n" -lt "$l" ]; do same || exit 0; sleep 1; n=$((n+1)); done; }
"#;

/// Input ends or time is up: politely, then not.
const COMMAND: &str = r#"exec 3<&0
( trap '' TERM; while read -r v <&3; do :; done; end ) >/dev/null 2>&1 </dev/null &
( trap '' TERM; late; end ) >/dev/null 2>&1 </dev/null 3<&- &
exec "$@" </dev/null 3<&-
"#;

/// The input is the command's own; time is up: at once, because something is being held.
const SESSION: &str = r#"( late; same && hit KILL ) >/dev/null 2>&1 </dev/null &
exec "$@"
"#;

/// The shell.
pub(super) const SHELL: &str = "/bin/sh";

/// What is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Command,
    Session,
}

/// The command line that starts `argv`.
pub(super) fn wrapped(
    kind: Kind,
    argv: &[String],
    env: &[(String, String)],
    limit: std::time::Duration,
) -> Vec<String> {
    let script = match kind {
        Kind::Command => format!("{PREAMBLE}{COMMAND}"),
        Kind::Session => format!("{PREAMBLE}{SESSION}"),
    };
    let seconds = limit.as_secs() + 1;
    let mut line =
        vec![SHELL.to_owned(), "-c".to_owned(), script, "stillpoint".to_owned(), seconds.to_string()];
    line.extend(env.iter().map(|(name, _)| name.clone()));
    line.push("--".to_owned());
    line.extend(argv.iter().cloned());
    line
}

/// The lines that give it its variables, or why they cannot be given.
pub(super) fn preamble(env: &[(String, String)]) -> Result<String, String> {
    let mut text = String::new();
    for (name, value) in env {
        if value.contains(['\n', '\r']) {
            return Err(format!(
                "the value of `{name}` has several lines, which cannot be passed; put it into a file in the container"
            ));
        }
        text.push_str(value);
        text.push('\n');
    }
    Ok(text)
}

/// Whether the runtime says that the container has no such shell.
pub(super) fn has_no_shell(why: &str) -> bool {
    let lower = why.to_lowercase();
    lower.contains(&format!("\"{SHELL}\""))
        && (lower.contains("no such file or directory") || lower.contains("not found"))
}
