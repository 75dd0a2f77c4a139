//! Habits that have gone wrong for others.

use crate::api::{Command, Deed, Hold, Invocation, Step, Take, Wait, limits};

use super::Severity;
use crate::text::shell::follow;

/// One that was found.
pub(super) struct Habit {
    pub(super) severity: Severity,
    pub(super) code: &'static str,
    /// Below the step.
    pub(super) field: &'static str,
    pub(super) what: String,
    pub(super) why: &'static str,
    pub(super) fix: &'static str,
}

/// Locks that belong to the connection that took them.
const SESSION_LOCKS: &[&str] = &[
    "flush tables with read lock",
    "flush tables",
    "lock tables",
    "lock instance for backup",
    "backup stage",
    "pg_backup_start",
    "pg_start_backup",
];
/// Clients whose server would keep a dead one's session for hours.
const CLIENTS: &[&str] = &["mariadb", "mysql", "psql"];
/// Clients that keep what they print until they end, unless they are told not to.
const BUFFERED: &[&str] = &["mariadb", "mysql"];
/// What makes a server, or the container's own kernel, end such a session.
const IDLE_LIMITS: &[&str] =
    &["wait_timeout", "interactive_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"];
/// The hosts give a round up after this, so a session that is allowed less may end in the middle of a good cut.
const ROUND_MS: u128 = 2_000;

pub(super) fn of(step: &Step) -> Vec<Habit> {
    let mut habits = Vec::new();
    for (field, command) in [("before", &step.before), ("after", &step.after), ("pods", &step.pods.where_)] {
        if let Some(command) = command {
            in_command(field, command, step, &mut habits);
        }
    }
    if let Some(hold) = &step.hold {
        in_hold(hold, &mut habits);
    }
    if step.pods.container.is_none() && runs_commands(step) {
        habits.push(Habit {
            severity: Severity::Note,
            code: "container-not-named",
            field: "pods",
            what: "no container is named".to_owned(),
            why: "commands run in the one that the pod's annotation kubectl.kubernetes.io/default-container names, else in the only ordinary one; a pod with several is refused",
            fix: "write `container:` if your pods have, or may be given, more than one",
        });
    }
    habits
}

/// Whether anything of the step happens in a container; requests over HTTP go to the pod.
fn runs_commands(step: &Step) -> bool {
    let commands = [&step.before, &step.after, &step.pods.where_];
    step.hold.is_some() || commands.into_iter().flatten().any(|command| command.invocation().is_some())
}

/// Blanks and quotes that look like those of a shell and are none.
fn looks_like_syntax(c: char) -> bool {
    matches!(
        c,
        '\u{a0}' | '\u{1680}' | '\u{2000}'
            ..='\u{200b}' | '\u{202f}' | '\u{205f}' | '\u{2060}' | '\u{3000}' | '\u{feff}'
    ) || matches!(
        c,
        '\u{2018}'
            ..='\u{201f}'
                | '\u{ab}'
                | '\u{bb}'
                | '\u{2039}'
                | '\u{203a}'
                | '\u{2032}'
                | '\u{2033}'
                | '\u{b4}'
    ) || matches!(c, '\u{2010}'..='\u{2015}' | '\u{2212}')
}

/// What a word processor or a web page makes of text that a program reads.
fn typographic<'a>(
    field: &'static str,
    texts: impl IntoIterator<Item = &'a String>,
    habits: &mut Vec<Habit>,
) {
    let mut characters = texts.into_iter().flat_map(|text| text.chars());
    if let Some(c) = characters.find(|c| looks_like_syntax(*c)) {
        habits.push(Habit {
            severity: Severity::Warning,
            code: "typographic-character",
            field,
            what: format!("the character U+{:04X} in a command", u32::from(c)),
            why: "it looks like a blank, a quote or a hyphen and is none, as text copied from a web page or a document has it",
            fix: "write a plain blank, ' or \", or -; where it is meant, put the text into a file",
        });
    }
}

fn in_text(field: &'static str, run: &Invocation, habits: &mut Vec<Habit>) {
    typographic(field, &run.argv(), habits);
    let script = match run {
        Invocation::Shell(line) => Some(line.as_str()),
        Invocation::Argv(_) => run.shell_text(),
    };
    if let Some(quote) = script.and_then(|script| follow(script).unclosed) {
        habits.push(Habit {
            severity: Severity::Error,
            code: "unclosed-quote",
            field,
            what: format!("{quote} is opened and never closed"),
            why: "the shell refuses the line, so the command fails each time",
            fix: "close it, or write \\ in front of it",
        });
    }
}

/// Programs that start something which is not a descendant of theirs.
const DELEGATES: &[&str] =
    &["ssh", "systemd-run", "docker", "podman", "nerdctl", "crictl", "kubectl", "at", "batch"];

/// Something whose end cannot be proven at a timeout.
fn in_reach(field: &'static str, run: &Invocation, habits: &mut Vec<Habit>) {
    let text = words(run);
    let outside = follow(&text).outside;
    let program = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
    let starts = outside.split(|c: char| c.is_whitespace() || ";&|(".contains(c)).map(program);
    let Some(delegate) = starts.into_iter().find(|word| DELEGATES.contains(&word.as_str())) else { return };
    habits.push(Habit {
        severity: Severity::Warning,
        code: "end-not-provable",
        field,
        what: format!("`{delegate}` has another process start the command"),
        why: "at a timeout its end cannot be proven: it may still have an effect later, so the cleanup stays pending",
        fix: "start the command itself, or limit it where it runs, as with `timeout 30 …`",
    });
}

fn in_command(field: &'static str, command: &Command, step: &Step, habits: &mut Vec<Habit>) {
    let Some(run) = command.invocation() else { return };
    in_text(field, run, habits);
    in_reach(field, run, habits);
    let mut found = |severity, code, what: String, why, fix| {
        habits.push(Habit { severity, code, field, what, why, fix });
    };
    let text = words(run);
    let sleeps = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == "sleep");
    let lock = SESSION_LOCKS.iter().find(|lock| text.contains(*lock));
    match (lock, sleeps || text.contains("nohup") || text.trim_end().ends_with('&')) {
        (Some(lock), true) => found(
            Severity::Error,
            "lock-held-by-sleep",
            format!("`{lock}` is held by a command that sleeps or stays in the background"),
            "whether the lock is there at the moment of the cut is a matter of luck, and it stays when the cut is late",
            "write it as `hold`: the session is kept open exactly over the cut, and asked afterwards whether it held",
        ),
        (Some(lock), false) => found(
            Severity::Error,
            "lock-in-one-shot",
            format!("`{lock}` in a command that ends"),
            "the lock belongs to the connection, so it is gone before anything is cut",
            "write it as `hold` with `send`, `ready` and `probe`; the rule library has examples",
        ),
        (None, _) => {}
    }
    if text.contains("nodetool") && text.split_whitespace().any(|word| word == "drain") {
        found(
            Severity::Error,
            "cassandra-drain",
            "`nodetool drain`".to_owned(),
            "it takes the node out of service until it is restarted",
            "use `nodetool flush`: it writes memtables and the node stays in service",
        );
    }
    if text.contains("fsfreeze") {
        found(
            Severity::Error,
            "fsfreeze",
            "`fsfreeze` in a rule".to_owned(),
            "every member of a cut is frozen and thawed anyway, and one that is frozen already is refused",
            "remove the command",
        );
    }
    if text.contains("fsynclock") && field == "before" && !undoes(step, "fsyncunlock") {
        found(
            Severity::Error,
            "lock-without-undo",
            "`fsyncLock` without `fsyncUnlock` in `after`".to_owned(),
            "that lock outlives its connection: writes stay blocked when nobody lifts it",
            "add `after` with `db.fsyncUnlock()`",
        );
    }
    if let (Deed::Wait(Wait { every: Some(every), .. }), Some(timeout)) = (&command.run, command.timeout)
        && every.get() >= timeout.get()
    {
        found(
            Severity::Warning,
            "wait-asks-once",
            "`every` is not shorter than `timeout`".to_owned(),
            "it is asked only once",
            "shorten `every`, or raise `timeout`",
        );
    }
}

fn undoes(step: &Step, word: &str) -> bool {
    step.after.as_ref().and_then(Command::invocation).is_some_and(|run| words(run).contains(word))
}

fn in_hold(hold: &Hold, habits: &mut Vec<Habit>) {
    in_text("hold", &hold.run, habits);
    // What a session is sent is read by a shell or a database's client.
    let sent = hold.send.iter().chain(hold.probe.as_ref().map(|probe| &probe.send)).chain(&hold.finish);
    typographic("hold", sent, habits);
    in_reach("hold", &hold.run, habits);
    let mut found = |severity, code, what: &str, why, fix| {
        habits.push(Habit { severity, code, field: "hold", what: what.to_owned(), why, fix });
    };
    let text = format!("{}\n{}", words(&hold.run), hold.send.join("\n").to_lowercase());
    let has_word =
        |word: &str| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|w| w == word);
    let client = CLIENTS.iter().any(|client| has_word(client));
    let limited = IDLE_LIMITS.iter().any(|limit| text.contains(limit)) || has_word("timeout");
    if client && !limited {
        found(
            Severity::Error,
            "no-server-side-limit",
            "a database's session without a limit on its own side",
            "when the container runtime dies, the session's input stays open for ever, and so does its lock",
            "send `SET SESSION wait_timeout=10;` (MariaDB, MySQL) or `SET idle_session_timeout='10s';` (PostgreSQL) first, or begin the command with `timeout 10`",
        );
    }
    let buffered = BUFFERED.iter().any(|client| has_word(client)) && !hold.send.is_empty();
    if buffered && !has_word("unbuffered") && !has_word("stdbuf") && !has_short_flag(&hold.run, 'n') {
        found(
            Severity::Error,
            "client-keeps-output",
            "a client that keeps what it prints until it ends",
            "that it holds would be heard only when it does not hold any more, so it never becomes ready",
            "add `--unbuffered` to its arguments",
        );
    }
    let script = matches!(hold.run, Invocation::Shell(_)) || hold.run.shell_text().is_some();
    if script && !client && hold.heartbeat.is_none() {
        found(
            Severity::Warning,
            "script-without-heartbeat",
            "a script's session without `heartbeat`",
            "when the container runtime dies, its input stays open for ever and the script waits on",
            "add `heartbeat: 1s` and wait with `while read -t 3 x; do :; done`, then undo",
        );
    }
    if hold.probe.is_none() {
        found(
            Severity::Warning,
            "hold-without-probe",
            "a session without `probe`",
            "that it is still there after the cut is all that is known; whether it still holds is not",
            "add `probe: {send: …, expect: …}`: a question that only a session which holds answers so",
        );
    }
    if hold.take == Take::InTurn && hold.limit.is_none() {
        found(
            Severity::Warning,
            "in-turn-without-limit",
            "`take: inTurn` with the usual `limit`",
            "the session holds while later steps run and the hosts prepare, which takes longer than 5 s",
            "write a `limit` that is long enough for that, at most 1m",
        );
    }
    let limit = hold.limit_or_default();
    if limit.as_millis() < ROUND_MS {
        found(
            Severity::Warning,
            "short-limit",
            "a limit below 2 s",
            "hosts may hold for up to 2 s, so the session may end in the middle of a good cut",
            "raise `limit`",
        );
    }
    if hold.heartbeat.is_some_and(|every| every.get() >= limit) || limit > limits::HOLD_LIMIT {
        found(
            Severity::Warning,
            "heartbeat-too-rare",
            "`heartbeat` is not shorter than `limit`",
            "no heartbeat is ever sent",
            "write `heartbeat: 1s`",
        );
    }
}

/// Whether an argument like `-n` or `-BNn` has this letter.
fn has_short_flag(run: &Invocation, letter: char) -> bool {
    let is_short = |flags: &str| flags.chars().all(|c| c.is_ascii_alphabetic());
    run.argv()
        .iter()
        .flat_map(|argument| argument.split_whitespace())
        .any(|word| word.strip_prefix('-').is_some_and(|flags| is_short(flags) && flags.contains(letter)))
}

fn words(run: &Invocation) -> String {
    run.argv().join(" ").to_lowercase()
}
