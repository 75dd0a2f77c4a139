//! The supervisor of one command: a small process between this one and the command, which proves the end of everything
//! that the command has started.
//!
//! A process group is not enough: `su`, `setsid` and daemons leave it. The supervisor is a *child subreaper*, so the
//! kernel makes it the parent of every descendant whose own parent ends. It therefore knows that nothing is left when
//! it has no child left (`ECHILD`), and says so with [`GONE`]. Nobody else can know.
//!
//! ```text
//! controller ──socket──► supervisor ──► command ──► whatever it starts, also when it daemonises
//! ```
//! * The command ends by itself: the supervisor ends with its exit code, and leaves alone what the command left behind.
//! * [`POLITE`]: SIGTERM, and one second later SIGKILL, until no child is left. [`AT_ONCE`]: SIGKILL.
//! * The socket ends without a word: the controller is dead. A command is ended at once, because the next controller
//!   will undo it. A session learns of that death by the end of its input; it is ended at its limit.
//!
//! It cannot see what another process starts on behalf of the command (`ssh`, `docker exec`, `systemd-run`, `at`), nor
//! orphans of another pid namespace that was entered (`nsenter --pid`).
#![expect(
    unsafe_code,
    reason = "fork and what may be done after it; nothing else can stand between two processes"
)]

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tokio::process::Command;

/// To the supervisor: end everything, politely first.
pub(super) const POLITE: u8 = b'T';
/// To the supervisor: end everything now.
pub(super) const AT_ONCE: u8 = b'K';
/// From the supervisor: nothing of the command is left.
pub(super) const GONE: u8 = b'G';
/// Between the polite signal and the last one, in milliseconds.
const POLITE_MS: i64 = 1000;
/// How often what does not die is killed again, in milliseconds: something may still be starting processes.
const AGAIN_MS: i64 = 20;
/// The socket's number in the supervisor.
const CHANNEL: RawFd = 3;
/// The kernel's limit for a process name, with the NUL at its end.
const NAME: usize = 16;

/// What is done when the controller dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Orphaned {
    /// It is ended at once.
    End,
    /// It is ended when so much time has passed since its start.
    EndAfter(Duration),
}

/// Makes `command` start under a supervisor with this process name. Gives our end of the socket; the other end must be
/// kept until the command was spawned. The first four bytes that arrive are the command's process id.
pub(super) fn supervise(
    command: &mut Command,
    name: &str,
    orphaned: Orphaned,
) -> io::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    let channel = theirs.as_raw_fd();
    let mut comm = [0_u8; NAME];
    let length = name.len().min(NAME - 1);
    comm[..length].copy_from_slice(&name.as_bytes()[..length]);
    let limit_ms = match orphaned {
        Orphaned::End => 0,
        Orphaned::EndAfter(limit) => i64::try_from(limit.as_millis()).unwrap_or(i64::MAX / 2),
    };
    // SAFETY: what runs between fork and exec calls only async-signal-safe functions and allocates nothing.
    unsafe {
        command.pre_exec(move || split(channel, &comm, limit_ms));
    }
    Ok((ours, theirs))
}

/// In the new process: becomes the supervisor, and returns in a child of it, which becomes the command.
fn split(channel: RawFd, name: &[u8; NAME], limit_ms: i64) -> io::Result<()> {
    // SAFETY: plain system calls on numbers; `fork` copies this thread only, and both sides go on with system calls.
    unsafe {
        if libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1_u64, 0_u64, 0_u64, 0_u64) != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
        match libc::fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
                // A group of its own: what the command does to its group must not reach the supervisor.
                libc::setpgid(0, 0);
                Ok(())
            }
            command => {
                libc::setpgid(command, command);
                keep_only(channel);
                libc::prctl(libc::PR_SET_NAME, name.as_ptr() as libc::c_ulong, 0_u64, 0_u64, 0_u64);
                Supervisor::new(command, limit_ms).watch()
            }
        }
    }
}

/// Closes every descriptor but the channel, and lets the working directory go: neither pipes nor mounts may be kept by
/// a process that does not use them.
unsafe fn keep_only(channel: RawFd) {
    // SAFETY: closing and duplicating descriptors of a process that uses none of them.
    unsafe {
        if channel != CHANNEL {
            libc::dup2(channel, CHANNEL);
        }
        for fd in 0..CHANNEL {
            libc::close(fd);
        }
        if libc::syscall(libc::SYS_close_range, CHANNEL as u32 + 1, u32::MAX, 0_u32) != 0 {
            let open = libc::sysconf(libc::_SC_OPEN_MAX).clamp(256, 65536);
            for fd in CHANNEL + 1..open as RawFd {
                libc::close(fd);
            }
        }
        libc::chdir(c"/".as_ptr());
    }
}

/// How the command is being ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// It is not.
    No,
    /// It was asked; it is killed at this time.
    Asked(i64),
    Killed,
}

/// The state of a supervisor. Times in milliseconds of the monotonic clock.
struct Supervisor {
    command: libc::pid_t,
    /// When an orphaned command is ended.
    limit: i64,
    orphaned: bool,
    ending: Ending,
    /// The command itself was waited for; its process id may belong to somebody else.
    reaped: bool,
    signals: RawFd,
}

impl Supervisor {
    fn new(command: libc::pid_t, limit_ms: i64) -> Self {
        // SAFETY: writes four bytes of its own to its own socket, and makes a descriptor that wakes for SIGCHLD.
        let signals = unsafe {
            let id = command.to_ne_bytes();
            libc::send(CHANNEL, id.as_ptr().cast(), id.len(), libc::MSG_NOSIGNAL);
            let mut child: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut child);
            libc::sigaddset(&raw mut child, libc::SIGCHLD);
            libc::signalfd(-1, &raw const child, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        let limit = now().saturating_add(limit_ms);
        Self { command, limit, orphaned: false, ending: Ending::No, reaped: false, signals }
    }

    /// Until nothing is left to watch.
    fn watch(mut self) -> ! {
        loop {
            self.reap();
            self.go_on_ending();
            self.wait();
        }
    }

    /// Takes note of every child that has ended; ends with the command, or when nothing is left of it.
    fn reap(&mut self) {
        loop {
            let mut status = 0;
            // SAFETY: waits for children without blocking.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            match pid {
                0 => return,
                -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => {}
                -1 => Self::end(GONE, 0),
                pid if pid == self.command && self.ending == Ending::No => Self::end(0, code_of(status)),
                pid => self.reaped |= pid == self.command,
            }
        }
    }

    fn end(word: u8, code: i32) -> ! {
        // SAFETY: tells the controller and ends, without running anything that the controller has registered.
        unsafe {
            if word != 0 {
                libc::send(CHANNEL, (&raw const word).cast(), 1, libc::MSG_NOSIGNAL);
            }
            libc::_exit(code)
        }
    }

    fn go_on_ending(&mut self) {
        match self.ending {
            Ending::Asked(until) if now() >= until => self.ending = Ending::Killed,
            Ending::No if self.orphaned && now() >= self.limit => self.ending = Ending::Killed,
            Ending::No | Ending::Asked(_) | Ending::Killed => {}
        }
        if self.ending == Ending::Killed {
            // Children of those that are killed become our own children, and are killed in the next round.
            each_child(|child| signal(child, libc::SIGKILL));
            if !self.reaped {
                signal(-self.command, libc::SIGKILL);
            }
        }
    }

    fn ask(&mut self) {
        if self.ending == Ending::No {
            self.ending = Ending::Asked(now() + POLITE_MS);
            signal(-self.command, libc::SIGTERM);
            each_child(|child| signal(child, libc::SIGTERM));
        }
    }

    /// Until a child ends, a word comes, or it is time.
    fn wait(&mut self) {
        let until = match self.ending {
            Ending::No if self.orphaned => Some(self.limit),
            Ending::No => None,
            Ending::Asked(until) => Some(until),
            Ending::Killed => Some(now() + AGAIN_MS),
        };
        let timeout = until.map_or(-1, |until| (until - now()).clamp(0, 60_000) as libc::c_int);
        // A negative descriptor is passed over: an ended socket would be readable for ever.
        let channel = if self.orphaned { -1 } else { CHANNEL };
        let mut ready = [
            libc::pollfd { fd: channel, events: libc::POLLIN, revents: 0 },
            libc::pollfd { fd: self.signals, events: libc::POLLIN, revents: 0 },
        ];
        // SAFETY: polls and reads into buffers of this function.
        unsafe {
            if libc::poll(ready.as_mut_ptr(), 2, timeout) <= 0 {
                return;
            }
            if ready[1].revents != 0 {
                let mut info: libc::signalfd_siginfo = std::mem::zeroed();
                libc::read(self.signals, (&raw mut info).cast(), size_of::<libc::signalfd_siginfo>());
            }
            if ready[0].revents != 0 {
                let mut word = 0_u8;
                match libc::recv(CHANNEL, (&raw mut word).cast(), 1, 0) {
                    1 if word == POLITE => self.ask(),
                    1 => self.ending = Ending::Killed,
                    _ => self.orphaned = true,
                }
            }
        }
    }
}

/// What a shell would say: the exit code, or 128 + the signal.
fn code_of(status: libc::c_int) -> i32 {
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) }
}

fn signal(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: the id is that of a child that was not waited for, or of the command's group; neither is used again before.
    unsafe {
        libc::kill(pid, signal);
    }
}

/// Milliseconds of a clock that nobody sets.
fn now() -> i64 {
    // SAFETY: fills a struct of this function.
    unsafe {
        let mut time: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time);
        time.tv_sec * 1000 + time.tv_nsec / 1_000_000
    }
}

/// Calls `each` with the process ids of our children, as the kernel lists them. A kernel that lists none still tells
/// with ECHILD when nothing is left; then only the command itself and what ends by itself can be waited for.
fn each_child(mut each: impl FnMut(libc::pid_t)) {
    let mut text = [0_u8; 4096];
    // SAFETY: reads a file into a buffer of this function.
    let length = unsafe {
        let file = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return;
        }
        let length = libc::read(file, text.as_mut_ptr().cast(), text.len());
        libc::close(file);
        usize::try_from(length).unwrap_or(0)
    };
    let mut pid: libc::pid_t = 0;
    for byte in text.iter().take(length) {
        if byte.is_ascii_digit() {
            pid = pid.wrapping_mul(10).wrapping_add(libc::pid_t::from(byte - b'0'));
        } else if pid > 0 {
            // An id that was cut off at the end of the buffer has no blank behind it, and is not touched.
            each(pid);
            pid = 0;
        }
    }
}
