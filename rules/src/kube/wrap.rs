//! What is put in front of a command in a container, so that it can be ended from outside, and its end proven.
//!
//! The API can start a command and close its input; it can signal nothing, and a kubelet or containerd that dies may
//! leave the command running with its input open for ever. So `/bin/sh` starts it: it reads variables from the first
//! lines of its input (never from the command line, which process lists and audit logs show), leaves watchers behind,
//! and becomes the command. They end the command when the input ends (commands) or when the limit has passed (commands
//! and sessions). The command keeps the process id that the runtime knows, so that what kills that kills the command.
//!
//! Nothing is begun before the line `go` has arrived: a request to start that reaches the node late, when nobody waits
//! for it any more, starts nothing.
//!
//! A process group does not hold a command: `su`, `setsid` and daemons leave it, and are adopted by process 1. So every
//! process of a command carries its [`Mark`] twice: in its environment, which `su -` and `env -i` clear, and as its
//! limit of file locks, which no kernel has enforced since 2.4 and which everything inherits. [`ending`] kills what has
//! the mark, or has a parent that had it, until two looks in a row find nothing.
//!
//! A process id is only signalled while it has the start time that it had: ids are used again. Names of our own begin
//! with `_sp_`, because a rule may set any variable.

use crate::ports::Mark;

/// `carries PID`: whether it has the mark. `sweep`: kills what has it; fails when something is left after several looks.
const SWEEP: &str = r#"carries() {
while IFS= read -r _sp_e || [ -n "$_sp_e" ]; do
case $_sp_e in *"STILLPOINT_COMMAND=$_sp_m"*) return 0;; esac; _sp_e=
done 2>/dev/null </proc/$1/environ
while read -r _sp_e; do
case $_sp_e in "Max file locks"*" $_sp_m "*) return 0;; esac
done 2>/dev/null </proc/$1/limits
[ -z "$_sp_w" ] && return 1
while IFS= read -r _sp_e || [ -n "$_sp_e" ]; do
case $_sp_e in *"$_sp_w$_sp_m"*) return 0;; esac; _sp_e=
done 2>/dev/null </proc/$1/cmdline
return 1; }
sweep() { _sp_n=0; _sp_c=0
while [ "$_sp_n" -lt 6 ]; do _sp_f=; _sp_k=' '
for _sp_x in /proc/[0-9]*; do _sp_x=${_sp_x#/proc/}
[ "$_sp_x" = "$_sp_me" ] && continue
read -r _sp_s 2>/dev/null </proc/$_sp_x/stat || continue
set -- ${_sp_s##*) }
case $1 in Z|X) continue;; esac
case $_sp_k in *" $2 "*) ;; *) carries "$_sp_x" || continue;; esac
kill -s KILL "$_sp_x" 2>/dev/null; _sp_f=1; _sp_k="$_sp_k$_sp_x "
done
if [ -n "$_sp_f" ]; then _sp_c=0; sleep 1; else _sp_c=$((_sp_c+1)); [ "$_sp_c" -ge 2 ] && return 0; fi
_sp_n=$((_sp_n+1)); done; return 1; }
"#;

/// Behind `mark limit NAME… -- program argument…`.
const PREAMBLE: &str = r#"_sp_m=$1 _sp_l=$2 _sp_p=$$ _sp_path=$PATH _sp_w=; shift 2
birth() { read -r _sp_s </proc/$_sp_p/stat || return 1; set -- ${_sp_s##*) }; echo "${20}"; }
_sp_b=$(birth 2>/dev/null)
same() { [ -n "$_sp_b" ] && [ "$(birth 2>/dev/null)" = "$_sp_b" ]; }
hit() { kill -s "$1" -- -$_sp_p 2>/dev/null || kill -s "$1" $_sp_p; }
me() { read -r _sp_me _sp_s </proc/self/stat; }
late() { _sp_n=0; while [ "$_sp_n" -lt "$_sp_l" ]; do same || exit 0; sleep 1 || exit 0; _sp_n=$((_sp_n+1)); done; }
end() { same || exit 0; me; hit TERM; sleep 1; same && hit KILL; sweep; exit 0; }
given() { while [ "$1" != -- ]; do IFS= read -r _sp_v || exit 125; export "$1=$_sp_v"; shift; done; }
mark() { export STILLPOINT_COMMAND=$_sp_m
if (ulimit -x $_sp_m) 2>/dev/null; then ulimit -x $_sp_m
elif (ulimit -w $_sp_m) 2>/dev/null; then ulimit -w $_sp_m; fi; }
"#;

/// Input ends or time is up: politely, then not.
const COMMAND: &str = r#"( trap '' TERM; late; end ) >/dev/null 2>&1 </dev/null &
given "$@"; while [ "$1" != -- ]; do shift; done; shift
IFS= read -r _sp_v && [ "$_sp_v" = go ] || exit 125
exec 3<&0
( trap '' TERM; PATH=$_sp_path; IFS=' '; while read -r _sp_v <&3; do :; done; end ) >/dev/null 2>&1 </dev/null &
mark; exec "$@" </dev/null 3<&-
"#;

/// The input is the command's own; time is up: at once, because something is being held.
const SESSION: &str = r#"( late; same && { me; hit KILL; sweep; } ) >/dev/null 2>&1 </dev/null &
given "$@"; while [ "$1" != -- ]; do shift; done; shift
IFS= read -r _sp_v && [ "$_sp_v" = go ] || exit 125
mark; exec "$@"
"#;

/// Behind `mark`: ends what carries it, also what has not become the command yet.
const END: &str = r#"_sp_m=$1 _sp_w=stillpoint-run _sp_me=$$
[ -r /proc/self/environ ] && read -r _sp_s 2>/dev/null </proc/1/stat || { echo /proc cannot be read; exit 3; }
sweep || { echo processes are left that cannot be killed; exit 4; }
{ (ulimit -x $_sp_m) || (ulimit -w $_sp_m); } 2>/dev/null && exit 0
for _sp_x in /proc/[0-9]*; do [ -r $_sp_x/environ ] || [ ! -e $_sp_x/environ ] ||
{ echo "${_sp_x#/proc/} cannot be looked into"; exit 5; }; done
"#;

/// The shell.
pub(super) const SHELL: &str = "/bin/sh";
/// What the names of the script's own variables begin with.
const OWN: &str = "_sp_";
/// The line that lets a command begin.
const GO: &str = "go\n";

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
    mark: Mark,
) -> Vec<String> {
    let script = match kind {
        Kind::Command => format!("{SWEEP}{PREAMBLE}{COMMAND}"),
        Kind::Session => format!("{SWEEP}{PREAMBLE}{SESSION}"),
    };
    let seconds = limit.as_secs() + 1;
    // Together without a blank, as the shell sees a command line in /proc: the mark must follow this name.
    let mut line = vec![SHELL.to_owned(), "-c".to_owned(), script, "stillpoint-run".to_owned()];
    line.extend([mark.to_string(), seconds.to_string()]);
    line.extend(env.iter().map(|(name, _)| name.clone()));
    line.push("--".to_owned());
    line.extend(argv.iter().cloned());
    line
}

/// The command line that ends what carries the mark. Exit code 0: nothing of it runs; otherwise it prints why that is
/// not known.
pub(super) fn ending(mark: Mark) -> Vec<String> {
    let script = format!("{SWEEP}{END}");
    [SHELL.to_owned(), "-c".to_owned(), script, "stillpoint-end".to_owned(), mark.to_string()].into()
}

/// The lines that give it its variables and let it begin, or why they cannot be given.
pub(super) fn preamble(env: &[(String, String)]) -> Result<String, String> {
    let mut text = String::new();
    for (name, value) in env {
        if name.starts_with(OWN) || name == Mark::VARIABLE {
            return Err(format!("the variable `{name}` is one of Stillpoint's own; give it another name"));
        }
        if value.contains(['\n', '\r', '\0']) {
            return Err(format!(
                "the value of `{name}` has several lines or a NUL character, which cannot be passed; put it into a file in the container"
            ));
        }
        text.push_str(value);
        text.push('\n');
    }
    text.push_str(GO);
    Ok(text)
}

/// Whether the runtime says that the container has no such shell.
pub(super) fn has_no_shell(why: &str) -> bool {
    let lower = why.to_lowercase();
    lower.contains(&format!("\"{SHELL}\""))
        && (lower.contains("no such file or directory") || lower.contains("not found"))
}
