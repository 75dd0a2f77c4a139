//! What becomes of commands when the controller dies: its end of the socket closes without a word.

use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use tokio::process::Command;

use super::super::process::{End, Process, Start};
use super::super::supervisor::{Orphaned, supervise};
use super::*;

/// A command that writes its id to a file and stays, and our end of its supervisor's socket.
fn started(file: &Path, orphaned: Orphaned) -> (tokio::process::Child, UnixStream) {
    let line = format!("trap '' TERM; setsid sleep 1000 & echo $! > {}; wait", file.display());
    let mut command = Command::new("sh");
    command.args(["-c", &line]);
    let (ours, theirs) = supervise(&mut command, "cmd-test", orphaned).unwrap();
    let child = command.spawn().unwrap();
    drop(theirs);
    (child, ours)
}

#[tokio::test]
async fn a_command_of_a_controller_that_died_is_ended_at_once_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let (mut supervisor, socket) = started(&file, Orphaned::End);
    let pid = pid_in(&file).await;
    assert!(alive(pid));
    drop(socket);
    timeout(SAFETY, supervisor.wait()).await.expect("the supervisor ends").unwrap();
    assert!(!alive(pid), "the supervisor is the last to go");
}

#[tokio::test]
async fn a_session_of_a_controller_that_died_is_ended_at_its_limit_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let (mut supervisor, socket) = started(&file, Orphaned::EndAfter(Duration::from_secs(2)));
    let pid = pid_in(&file).await;
    let began = std::time::Instant::now();
    drop(socket);
    sleep(Duration::from_millis(100)).await;
    assert!(
        alive(pid) || began.elapsed() > Duration::from_secs(1),
        "its input has ended; it lets go by itself"
    );
    timeout(SAFETY, supervisor.wait()).await.expect("the supervisor ends").unwrap();
    assert!(!alive(pid));
}

#[tokio::test]
async fn a_supervisor_keeps_neither_files_nor_directories_of_anybody() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let (mut supervisor, socket) = started(&file, Orphaned::End);
    pid_in(&file).await;
    let id = supervisor.id().unwrap();
    let open: Vec<_> = std::fs::read_dir(format!("/proc/{id}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .map(|link| link.display().to_string())
        .collect();
    assert!(open.iter().all(|link| link.starts_with("socket:") || link.contains("signalfd")), "{open:?}");
    assert_eq!(std::fs::read_link(format!("/proc/{id}/cwd")).unwrap(), Path::new("/"));
    drop(socket);
    timeout(SAFETY, supervisor.wait()).await.expect("the supervisor ends").unwrap();
}

#[tokio::test]
async fn a_supervisor_that_gives_no_answer_is_not_taken_for_an_end() {
    for is_killed in [false, true] {
        let start =
            Start { env: &[], mark: mark(), orphaned: Orphaned::End, stdin: std::process::Stdio::null };
        let argv = ["sleep".to_owned(), "1000".to_owned()];
        let process = Process::start(&definition("db"), &argv, start).await.unwrap();
        let command = process.pid;
        let supervisor = Pid::from_raw(process.child.id().unwrap().try_into().unwrap());
        kill(supervisor, if is_killed { Signal::SIGKILL } else { Signal::SIGSTOP }).unwrap();
        let end = timeout(SAFETY, process.kill()).await.expect("the wait for an answer ends");
        assert!(alive(command), "nobody has ended it");
        assert_eq!(end, End::Unverified);
        if is_killed {
            kill(Pid::from_raw(command), Signal::SIGKILL).unwrap();
        } else {
            // It finds the order when it goes on.
            kill(supervisor, Signal::SIGCONT).unwrap();
            dies(command).await;
        }
    }
}
